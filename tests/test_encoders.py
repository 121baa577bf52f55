"""LSA beside a dense singular value decomposition, and a model that is only pretended."""

import math
import sys
import threading
import types
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from llmds import encoders
from llmds.encoders import LSAEncoder, SentenceTransformerEncoder
from llmds.kernels import encoders as kernels
from llmds.kernels import tokenizer as tokens
from llmds.tokenizer.tokenizer import Tokenizer
from tests import face


def corpus(n=120, seed=0, words=60):
    """Texts about one of four topics, each with words of its own."""
    chance = np.random.default_rng(seed)
    topics = chance.integers(0, 4, n)
    return [
        " ".join(f"w{word}" for word in topic * words + chance.zipf(1.3, chance.integers(3, 30)) % words)
        for topic in topics
    ], topics


def weights(texts, min_df=1):
    """The matrix that `fit` decomposes, dense and in float64, by the formula; and its terms."""
    counts = [Counter(text.split()) for text in texts]
    df = Counter(term for count in counts for term in count)
    terms = [term for term in df if df[term] >= min_df]
    matrix = np.zeros((len(texts), len(terms)))
    for row, count in enumerate(counts):
        for column, term in enumerate(terms):
            if term in count:
                idf = math.log(1 + (len(texts) - df[term] + 0.5) / (df[term] + 0.5))
                matrix[row, column] = (1 + math.log(count[term])) * idf
        length = np.linalg.norm(matrix[row])
        matrix[row] /= length if length else 1
    return matrix, terms


def test_singular_values_and_directions_are_those_of_the_dense_decomposition():
    texts, _ = corpus()
    matrix, _ = weights(texts, min_df=2)
    encoder = LSAEncoder(dim=10, n_iter=100).fit(texts)
    _, singular, right = np.linalg.svd(matrix, full_matrices=False)
    np.testing.assert_allclose(encoder.stats()["singular_values"], singular[:10], rtol=1e-4)
    expected = matrix @ right[:10].T
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    vectors = encoder(texts)
    np.testing.assert_allclose(vectors @ vectors.T, expected @ expected.T, atol=2e-3)


def test_as_many_dimensions_as_the_rank_keep_all_angles():
    texts, _ = corpus(n=30)
    matrix, _ = weights(texts)
    encoder = LSAEncoder(dim=40, min_df=1).fit(texts)
    vectors = encoder(texts)
    np.testing.assert_allclose(vectors @ vectors.T, matrix @ matrix.T, atol=1e-3)
    assert encoder.stats()["rank"] == np.linalg.matrix_rank(matrix) and vectors.shape == (30, 40)
    assert not vectors[:, 30:].any(), "dimensions beyond the rank hold nothing"


def test_texts_of_one_topic_lie_together():
    texts, topics = corpus()
    vectors = LSAEncoder(dim=8).fit(texts)(texts)
    similar = vectors @ vectors.T
    same = topics[:, None] == topics
    assert similar[same].mean() > similar[~same].mean() + 0.3


@settings(max_examples=30)
@given(st.lists(st.text("ab ", max_size=12), min_size=1, max_size=8), st.integers(1, 6), st.integers(1, 3))
def test_any_corpus_gives_rows_of_length_one_or_of_zeros(texts, dim, min_df):
    _, terms = weights(texts, min_df)
    encoder = LSAEncoder(dim, min_df=min_df)
    if not terms:
        with pytest.raises(ValueError, match="min_df"):
            encoder.fit(texts)
        return
    vectors = encoder.fit(texts)(texts)
    encoder.check()
    assert vectors.dtype == np.float32 and vectors.shape == (len(texts), dim) and encoder.dim == dim
    assert encoder.stats()["terms"] == len(terms)
    for text, vector in zip(texts, vectors, strict=True):
        length = np.linalg.norm(vector)
        assert (
            length == 0 if not set(text.split()) & set(terms) else length == pytest.approx(1, abs=1e-5) or length == 0
        )


def test_a_text_without_known_terms_is_a_row_of_zeros():
    encoder = LSAEncoder(dim=4).fit(corpus()[0])
    vectors = encoder(["", "never seen", "w1 w2", "\ud800"])
    assert [bool(vector.any()) for vector in vectors] == [False, False, True, False]


def test_unknown_terms_change_nothing():
    encoder = LSAEncoder(dim=4).fit(corpus()[0])
    np.testing.assert_array_equal(encoder(["w1 w2"]), encoder(["w1 unheard w2 of"]))


def test_one_text_at_a_time_gives_what_all_at_once_give(monkeypatch):
    texts, _ = corpus()
    encoder = LSAEncoder(dim=5).fit(texts)
    together = encoder(texts)
    np.testing.assert_array_equal(together, np.concatenate([encoder([text]) for text in texts]))
    assert encoder([]).shape == (0, 5)
    monkeypatch.setattr(encoders, "CHUNK", 7), monkeypatch.setattr(encoders, "_CHUNK_WORK", 100)
    np.testing.assert_array_equal(encoder(texts), together)
    chunked = LSAEncoder(dim=5).fit(texts)
    face.same_arrays(chunked, encoder)


def test_rare_terms_are_left_out():
    texts = ["a b", "a c", "a b d", "e a"]
    assert LSAEncoder(2, min_df=1).fit(texts).stats()["terms"] == 5
    encoder = LSAEncoder(2, min_df=2).fit(texts)
    assert encoder.stats()["terms"] == 2 and not encoder(["c d e"]).any() and encoder(["b"]).any()


def test_only_the_terms_of_the_most_texts_are_kept():
    encoder = LSAEncoder(2, min_df=1, max_features=2).fit(["d a b", "a c", "a b d", "e a"])
    assert encoder.stats()["terms"] == 2
    assert [bool(encoder([term]).any()) for term in "abcde"] == [True, False, False, True, False]


def test_one_seed_gives_one_encoder_and_another_a_slightly_different_one():
    texts, _ = corpus()
    face.same_arrays(LSAEncoder(5, seed=3).fit(texts), LSAEncoder(5, seed=3).fit(texts))
    assert (
        LSAEncoder(5, seed=3, n_iter=0).fit(texts)(texts) != LSAEncoder(5, seed=4, n_iter=0).fit(texts)(texts)
    ).any()


def test_more_iterations_come_nearer():
    texts, _ = corpus(n=300, words=200)
    best = np.linalg.svd(weights(texts, 2)[0], compute_uv=False)[:20]
    errors = [np.abs(LSAEncoder(20, n_iter=n).fit(texts).stats()["singular_values"] - best).max() for n in (0, 2, 100)]
    assert errors[0] > errors[1] > errors[2] and errors[2] < 1e-3


def test_fitting_again_forgets_the_first_corpus():
    texts, _ = corpus()
    again = LSAEncoder(5).fit(["x y", "y z", "x z"]).fit(texts)
    face.same_arrays(again, LSAEncoder(5).fit(texts))


@pytest.mark.parametrize(
    "tokenizer",
    [str.split, types.SimpleNamespace(tokenize=str.split), Tokenizer(split=str.split)],
    ids=["callable", "object", "Tokenizer"],
)
def test_any_tokenizer_may_be_given(tokenizer):
    encoder = LSAEncoder(2, tokenizer=tokenizer, min_df=1).fit(["A-b c", "a c", "A-b d"])
    assert encoder(["A-b"]).any() and not encoder(["b"]).any()


def test_stop_words_and_stemmer_come_with_the_tokenizer():
    tokenizer = Tokenizer(stop_words="english", stemmer=lambda term: term.rstrip("s"))
    encoder = LSAEncoder(2, tokenizer=tokenizer, min_df=1).fit(["the cats", "dogs and cat", "a dog"])
    assert encoder.stats()["terms"] == 2 and not encoder(["the and"]).any()
    np.testing.assert_array_equal(encoder(["cat"]), encoder(["the cats"]))


def test_progress_is_told_to_the_end():
    texts, calls = corpus()[0], []
    LSAEncoder(4, n_iter=2).fit(texts, progress=lambda done, total: calls.append((done, total)))
    total = len(texts) * 4
    assert calls[-1] == (total, total) and [done for done, _ in calls] == sorted(done for done, _ in calls)


@pytest.mark.parametrize(
    "call, error",
    [
        (lambda encoder: encoder.fit([]), ValueError),
        (lambda encoder: encoder.fit(["one", "two"]), ValueError),
        (lambda encoder: encoder.fit(["", " "]), ValueError),
        (lambda encoder: encoder.fit("one"), TypeError),
        (lambda encoder: encoder.fit(["one", 2]), TypeError),
        (lambda encoder: encoder.fit(["a a", "a b"], progress="yes"), TypeError),
        (lambda encoder: encoder("one"), TypeError),
        (lambda encoder: encoder([None]), TypeError),
        (lambda encoder: encoder(3), TypeError),
    ],
)
def test_a_refused_call_changes_nothing(call, error):
    texts, _ = corpus(20)
    encoder = LSAEncoder(3).fit(texts)
    with pytest.raises(error):
        call(encoder)
    face.same_arrays(encoder, LSAEncoder(3).fit(texts))


def test_an_interrupted_fit_keeps_what_was_learnt_before():
    texts, _ = corpus(20)
    encoder = LSAEncoder(3).fit(texts)

    def interrupt(done, total):
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encoder.fit(["a b", "a b"], progress=interrupt)
    face.same_arrays(encoder, LSAEncoder(3).fit(texts))


@pytest.mark.parametrize(
    "given, error",
    [
        ({"dim": 0}, ValueError),
        ({"dim": 2.0}, TypeError),
        ({"dim": True}, TypeError),
        ({"min_df": 0}, ValueError),
        ({"max_features": 0}, ValueError),
        ({"n_iter": -1}, ValueError),
        ({"seed": -1}, ValueError),
        ({"seed": None}, TypeError),
        ({"tokenizer": 5}, TypeError),
    ],
)
def test_settings_are_checked(given, error):
    with pytest.raises(error):
        LSAEncoder(**given)


def test_an_encoder_that_has_learnt_nothing_says_so():
    encoder = LSAEncoder(3)
    encoder.check()
    with pytest.raises(ValueError, match=r"call fit\(texts\) first"):
        encoder(["text"])
    assert encoder.stats()["terms"] == 0 and "0 terms" in repr(encoder)


def test_threads_encode_while_another_learns():
    texts, _ = corpus(60)
    encoder = LSAEncoder(3).fit(texts)
    expected, wrong = encoder(texts), []

    def encode():
        for _ in range(20):
            if (encoder(texts) != expected).any():
                wrong.append(1)

    threads = [threading.Thread(target=encode) for _ in range(3)]
    [thread.start() for thread in threads]
    for _ in range(5):
        encoder.fit(texts)
    [thread.join() for thread in threads]
    assert not wrong


def test_each_kernel_is_compiled_once(tmp_path):
    LSAEncoder(3).fit(corpus(20)[0]).save(tmp_path / "encoder.npz")
    for encoder in (LSAEncoder(3).fit(corpus(20)[0]), LSAEncoder.load(tmp_path / "encoder.npz")):
        encoder(["w1"]), encoder([]), encoder(np.array(["w1", "w2"]))
    used = [kernels.count_terms, kernels.weigh, kernels.times_dense, kernels.add_gram_times_dense, kernels.normalise]
    assert [len(kernel.signatures) for kernel in used] == [1] * 5


@njit
def of_one_term(arrays, term):
    """Return the number of a term (uint8), and double its idf."""
    start, stop = np.zeros(1, np.int32), np.full(1, len(term), np.int32)
    hashes, numbers = np.empty(1, np.uint32), np.empty(1, np.int32)
    tokens.hash_terms(term, start, stop, hashes)
    tokens.find(arrays.data, arrays.offsets, arrays.buckets, term, start, stop, hashes, numbers)
    arrays.idf[numbers[0]] *= 2
    return numbers[0], arrays.projection[numbers[0]].copy()


def test_a_loop_of_the_users_own_runs_on_the_arrays():
    encoder = LSAEncoder(2, min_df=1).fit(["cat dog", "cat emu"])
    before = encoder(["cat emu"])
    number, direction = of_one_term(encoder.arrays, np.frombuffer(bytearray(b"emu"), np.uint8))
    assert number == 2
    np.testing.assert_array_equal(direction, encoder.arrays.projection[2])
    assert not np.array_equal(encoder(["cat emu"]), before), "the encoder uses the idf written to its arrays"
    encoder.check()
    arrays = encoder.arrays
    encoder.fit(["cat dog", "cat emu"])
    assert arrays.idf is not encoder.arrays.idf
    np.testing.assert_array_equal(encoder(["cat emu"]), before)


def test_files_and_pickles_keep_everything(tmp_path):
    texts, _ = corpus(40)
    encoder = LSAEncoder(6, n_iter=2, seed=9, min_df=3, max_features=50).fit(texts)
    for other in face.keeps_everything(encoder, tmp_path):
        np.testing.assert_array_equal(other(texts), encoder(texts))
        assert other.nbytes == encoder.nbytes and repr(other) == repr(encoder)
        face.same_arrays(
            other.fit(texts[:30]), LSAEncoder(6, n_iter=2, seed=9, min_df=3, max_features=50).fit(texts[:30])
        )


def test_an_encoder_that_has_learnt_nothing_can_be_kept(tmp_path):
    for other in face.keeps_everything(LSAEncoder(3), tmp_path):
        assert other.fit(["a b", "a b"]).stats()["terms"] == 2


def test_a_file_wants_the_tokenizer_it_was_made_with(tmp_path):
    path = tmp_path / "encoder.npz"
    LSAEncoder(2, tokenizer=str.split, min_df=1).fit(["A-b c", "a c"]).save(path)
    assert LSAEncoder.load(path, tokenizer=str.split)(["A-b"]).any()
    with pytest.raises(ValueError, match="analysis"):
        LSAEncoder.load(path)


def test_no_damaged_file_passes_or_crashes(tmp_path):
    face.survives_damage(LSAEncoder(3).fit(["a b c", "b c", "a c", "x y"]), tmp_path)
    face.refuses_other_files(LSAEncoder, tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda arrays: arrays["settings"].__setitem__(0, 7),
        lambda arrays: arrays["settings"].__setitem__(0, -7),
        lambda arrays: arrays["settings"].__setitem__(5, 0),
        lambda arrays: arrays["settings"].__setitem__(5, -3),
        lambda arrays: arrays.update(settings=arrays["settings"][:-1].copy()),
        lambda arrays: arrays["analysis"].__setitem__(0, 0xFF),
        lambda arrays: arrays["analysis"].__setitem__(0, ord("x")),
        lambda arrays: arrays["head"].__setitem__(0, 2**40),
        lambda arrays: arrays["offsets"].__setitem__(1, 2**40),
        lambda arrays: arrays["buckets"].fill(3),
        lambda arrays: arrays["idf"].__setitem__(0, np.nan),
        lambda arrays: arrays["idf"].__setitem__(0, -1),
        lambda arrays: arrays["projection"].__setitem__((0, 0), np.inf),
        lambda arrays: arrays["singular_values"].__setitem__(1, 1e9),
        lambda arrays: arrays["singular_values"].__setitem__(2, -1),
        lambda arrays: arrays.update(projection=arrays["projection"][:-1].copy()),
        lambda arrays: arrays.update(idf=arrays["idf"][:-1].copy()),
    ],
)
def test_every_array_is_examined_before_it_is_used(change):
    encoder = LSAEncoder(3).fit(["a b c", "b c", "a c", "x y"])
    arrays = {name: array.copy() for name, array in encoder._to_arrays().items()}
    change(arrays)
    with pytest.raises(ValueError, match="here"):
        LSAEncoder._restored(arrays, "here", tokenizer=None)


def test_learnt_vectors_find_what_judges_found_relevant(data):
    """As good as published BM25 runs on an easy collection: the reference there is nDCG@10 .498."""
    import gzip
    import json

    def lines(name):
        with gzip.open(data / "cranfield" / name, "rt", encoding="utf-8") as file:
            return [json.loads(line) for line in file]

    documents, queries = lines("corpus.jsonl.gz"), lines("queries.jsonl.gz")
    relevant = {}
    for line in (data / "cranfield" / "qrels.tsv").read_text().splitlines()[1:]:
        query, document, _ = line.split("\t")
        relevant.setdefault(query, set()).add(document)
    encoder = LSAEncoder(256).fit([document["text"] for document in documents])
    scores = encoder([query["text"] for query in queries]) @ encoder([document["text"] for document in documents]).T
    gains = []
    for query, row in zip(queries, scores, strict=True):
        judged = relevant[query["_id"]]
        found = [documents[i]["_id"] in judged for i in np.argsort(-row, kind="stable")[:10]]
        discount = 1 / np.log2(np.arange(2, 12))
        gains.append((found * discount).sum() / discount[: len(judged)].sum())
    assert 0.51 < np.mean(gains) < 0.54


class PretendedModel:
    """What of a SentenceTransformer is used."""

    def __init__(self, name, device=None):
        self.name, self.device, self.calls = name, device, []

    def get_sentence_embedding_dimension(self):
        return 4

    def encode(self, texts, **options):
        self.calls.append((list(texts), options))
        vectors = np.array([[len(text), 1, 0, 0] for text in texts], np.float64)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def pretended(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", types.SimpleNamespace(SentenceTransformer=PretendedModel))


def test_a_model_is_a_callable_with_a_dimension(pretended, tmp_path):
    encoder = SentenceTransformerEncoder("some/model", batch_size=np.int64(7), device="cpu")
    vectors = encoder(["a", "bcd"])
    assert encoder.dim == 4 and vectors.dtype == np.float32 and vectors.shape == (2, 4)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
    texts, options = encoder._model.calls[0]
    assert texts == ["a", "bcd"] and options["batch_size"] == 7 and options["normalize_embeddings"]
    assert encoder._model.name == "some/model" and encoder._model.device == "cpu"
    assert encoder([]).shape == (0, 4) and len(encoder._model.calls) == 1
    assert SentenceTransformerEncoder(tmp_path)._model.name == str(tmp_path)
    assert repr(encoder) == "SentenceTransformerEncoder('some/model', dim=4)"


@pytest.mark.parametrize(
    "call, error",
    [
        (lambda: SentenceTransformerEncoder(5), TypeError),
        (lambda: SentenceTransformerEncoder("m", batch_size=0), ValueError),
        (lambda: SentenceTransformerEncoder("m", batch_size=1.0), TypeError),
        (lambda: SentenceTransformerEncoder("m")("text"), TypeError),
        (lambda: SentenceTransformerEncoder("m")([5]), TypeError),
    ],
)
def test_bad_arguments_to_a_model_are_refused(pretended, call, error):
    with pytest.raises(error):
        call()


def test_a_model_that_gives_other_shapes_is_refused(pretended, monkeypatch):
    monkeypatch.setattr(PretendedModel, "encode", lambda self, texts, **options: np.zeros((len(texts), 3)))
    with pytest.raises(ValueError, match="shape"):
        SentenceTransformerEncoder("m")(["text"])


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ImportError, match=r"llmds\[encoders\]"):
        SentenceTransformerEncoder("m")
