r"""Makes the canonical .npz of a pickle, or of your own table.

cberl convert --input=MELD_features_raw1.pkl --output=meld.npz
cberl convert --input=own.pkl --output=own.npz --classes=calm,glad --splits=train,test,dev
cberl convert --table=turns.csv --features=text=text.npy --features=audio=audio.npy \
    --dev_share=0.1 --output=mine.npz --probe
cberl convert --table=turns.csv --features=text.minilm=a.npy --features=text.mpnet=b.npy \
    --output=mine.npz
"""

from typing import TYPE_CHECKING

from absl import flags

from cberl_jax.errors import UserError

if TYPE_CHECKING:
    from cberl_jax.data.corpus import Corpus

# What a flag speaks of that the file at hand does not have.
_ELSEWHERE = {
    "corpus": "the labels of a --table are named by itself or by --classes",
    "splits": "the splits of a --table stand in its column split, or are drawn by --dev_share and "
    "--test_share",
    "features": "only a --table has features in files of their own",
    "columns": "only a --table has columns",
    "test_share": "only of a --table a test split is drawn",
}


def define_flags() -> None:
    """Defines the flags of the command."""
    flags.DEFINE_string("input", None, "Pickle, .npz or simulated:<size>.")
    flags.DEFINE_string("output", None, "The .npz to write or replace.", required=True)
    flags.DEFINE_string("classes", "", "Names of the classes in the order of their numbers.")
    flags.DEFINE_string("corpus", "", "Whose classes: meld, iemocap, iemocap4, emorynlp, mosei.")
    flags.DEFINE_string("splits", "", "The lists of ids in their order, such as train,dev,test.")
    flags.DEFINE_string("bins", "", "Edges that cut real-valued labels, such as -3,0,3.")
    flags.DEFINE_float("dev_share", 0.0, "Share of train for dev if there is none.", 0, 0.5)
    flags.DEFINE_string("table", None, "Your own CSV, a row per utterance, in place of --input.")
    flags.DEFINE_multi_string(
        "features",
        [],
        "Of --table: modality=file.npy, or .npz; views as text.minilm=a.npy.",
    )
    flags.DEFINE_list("columns", [], "Of --table: dialogue=Dialogue_ID where names differ.")
    flags.DEFINE_float("test_share", 0.0, "Of --table: share of train held out as test.", 0, 0.5)
    flags.DEFINE_boolean("probe", False, "Check that features belong to their utterances.")


def main() -> None:
    """Converts one file, and says what it holds."""
    from cberl_jax.data.notices import describe_with_notices

    corpus = _convert()
    print(describe_with_notices(corpus))
    if flags.FLAGS.probe:
        from cberl_jax.evaluation.probe import probe

        print(probe(corpus))
    print(f"written: {flags.FLAGS.output}")


def _convert() -> "Corpus":
    from cberl_jax.data.readers.load import convert
    from cberl_jax.data.readers.options import parse_options
    from cberl_jax.data.readers.tables import convert_table
    from cberl_jax.features.extract import parse_vectors

    given = flags.FLAGS
    if (given.input is None) == (given.table is None):
        raise UserError("name either a file by --input, or a table of your own by --table")
    of_other = ("corpus", "splits") if given.table else ("features", "columns", "test_share")
    unread = [name for name in of_other if given[name].present]
    if unread:
        raise UserError(f"--{unread[0]}: {_ELSEWHERE[unread[0]]}; take it away")
    options = parse_options(given.classes, given.corpus, given.splits, given.bins, given.dev_share)
    if given.table is None:
        return convert(given.input, given.output, options)
    return convert_table(
        given.table,
        parse_vectors(given.features),
        given.output,
        columns=given.columns,
        classes=options.classes or None,
        bins=options.bins,
        dev_share=options.dev_share,
        test_share=given.test_share,
    )
