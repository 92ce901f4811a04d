"""The command that checks proofs. It needs the extra `proof`, and nothing of `cli` that draws."""

from pathlib import Path
from typing import Annotated, Any

import typer

from challenge_client import proofs
from challenge_client.cli import output
from challenge_client.cli.outcomes import Exit


def verify_proof(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `challenge-engine prove` wrote.")],
    key: Annotated[
        list[str],
        typer.Option("--key", metavar="PUB", help="Public key of the firm, or a file that holds one; may be repeated."),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check the proof of a verdict, and say in plain words why the challenge failed or was funded.

    Needs no server and no database. Exit codes: 0 it is proved, 1 it is not, 2 wrong usage or file.
    """
    try:
        data, keys = file.read_bytes(), [proofs.parse_key(text) for text in key]
    except OSError as error:
        raise typer.BadParameter(f"cannot read {file}: {error.strerror}", param_hint="FILE") from None
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--key") from None
    try:
        proved = proofs.verify_proof(data, keys)
    except proofs.ProofError as error:
        if as_json:
            output.print_json({"proved": False, "error": str(error)})
        typer.echo(f"NOT PROVED: {error}", err=True)
        raise typer.Exit(Exit.REFUSED) from None
    if as_json:
        output.print_json(proved_as_json(proved))
        return
    typer.echo(proofs.explain(proved.history))
    signers = ", ".join(f"{each.name}+{each.key_hash.hex()}" for each in proved.signed_by)
    typer.echo(
        f"PROVED: its {len(proved.history.decisions)} trades were decided again by rules version"
        f" {proved.history.terms.rules_version}, and lead to leaf {proved.seal.leaf_index} of the"
        f" {proved.checkpoint.tree_size} that {signers} signed ({', '.join(proved.checkpoint.extensions)})."
    )


def proved_as_json(proved: proofs.Proved) -> dict[str, Any]:
    """What a proof has proved, for programs."""
    state = proved.history.state
    return {
        "proved": True,
        "challenge_id": proved.history.terms.challenge_id,
        "status": str(state.status),
        "status_reason": None if state.status_reason is None else str(state.status_reason),
        "trades": state.last_sequence,
        "chain_head": state.chain_head.hex(),
        "leaf_index": proved.seal.leaf_index,
        "tree_size": proved.checkpoint.tree_size,
        "origin": proved.checkpoint.origin,
        "signed_by": [str(each) for each in proved.signed_by],
        "explanation": proofs.explain(proved.history),
    }
