"""The pipeline beside a model that scores every document by both formulas."""

import math
import threading

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from llmds.retrieval_pipeline import RetrievalPipeline
from llmds.tokenizer.tokenizer import Tokenizer
from tests import face

WORDS = ["paged", "attention", "cache", "heap", "sketch", "graph"]
DIM = 3
texts = st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join)
ids = st.integers(0, 7) | st.just(2**63 - 1)
embeddings = st.lists(st.integers(-2, 2), min_size=DIM, max_size=DIM).filter(any).map(lambda row: np.array(row, float))


def bm25(documents, query, doc_id, k1=1.2, b=0.75):
    """The formula in float64, over a dict of id -> text."""
    lengths = {key: len(text.split()) for key, text in documents.items()}
    average = sum(lengths.values()) / len(lengths)
    score = 0.0
    for term in query.split():
        frequency = documents[doc_id].split().count(term)
        if frequency:
            df = sum(term in text.split() for text in documents.values())
            idf = math.log(1 + (len(documents) - df + 0.5) / (df + 0.5))
            score += idf * frequency / (frequency + k1 * (1 - b + b * lengths[doc_id] / average))
    return score


def cosine(a, b):
    return float(a @ b / math.sqrt((a @ a) * (b @ b)))


def normalised(scores):
    """Min-max over a dict of id -> score or None, None lowest; a constant side is 0."""
    known = [score for score in scores.values() if score is not None]
    low, high = min(known, default=0.0), max(known, default=0.0)
    span = high - low
    return {key: 0.0 if score is None or span <= 1e-9 else (score - low) / span for key, score in scores.items()}


def model_scores(documents, vectors, query, embedding, weight):
    """id -> score of every document that belongs in the answer."""
    text = {key: bm25(documents, query, key) for key in documents}
    if embedding is None or weight == 0:
        return {key: score for key, score in text.items() if score > 0}
    dense = {key: cosine(vectors[key], embedding) if key in vectors else None for key in documents}
    if weight == 1:
        return {key: score for key, score in dense.items() if score is not None}
    candidates = [key for key in documents if text[key] > 0 or dense[key] is not None]
    text, dense = (
        normalised({key: text[key] for key in candidates}),
        normalised({key: dense[key] for key in candidates}),
    )
    return {key: weight * dense[key] + (1 - weight) * text[key] for key in candidates}


def agrees(found, expected, top_k):
    """`found` is the top of `expected`, whatever the order among scores that rounding cannot tell apart."""
    assert len(found) == min(top_k, len(expected)) and len({key for key, _ in found}) == len(found)
    assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)
    for (key, score), best in zip(found, sorted(expected.values(), reverse=True), strict=False):
        assert score == pytest.approx(expected[key], abs=2e-5) and score == pytest.approx(best, abs=2e-5)


class BesideModel(RuleBasedStateMachine):
    """Any sequence of writes, then any search, answers as the two dicts do."""

    @initialize()
    def start(self):
        self.pipeline = RetrievalPipeline(DIM, seed=1)
        self.documents, self.vectors = {}, {}

    @rule(doc_id=ids, text=texts, embedding=embeddings | st.none())
    def add(self, doc_id, text, embedding):
        self.pipeline.add_document(doc_id, text, embedding)
        self.documents[doc_id] = text
        self.vectors.pop(doc_id, None)
        if embedding is not None:
            self.vectors[doc_id] = embedding

    @rule(items=st.lists(st.tuples(ids, texts, embeddings), max_size=5), with_embeddings=st.booleans())
    def add_many(self, items, with_embeddings):
        rows = np.array([row for _, _, row in items]).reshape(-1, DIM) if with_embeddings else None
        self.pipeline.add_documents([key for key, _, _ in items], [text for _, text, _ in items], rows)
        for key, text, row in items:
            self.documents[key] = text
            self.vectors.pop(key, None)
            if with_embeddings:
                self.vectors[key] = row

    @rule(doc_id=ids)
    def remove(self, doc_id):
        if doc_id not in self.documents:
            with pytest.raises(KeyError):
                self.pipeline.remove_document(doc_id)
        else:
            self.pipeline.remove_document(doc_id)
            del self.documents[doc_id]
            self.vectors.pop(doc_id, None)

    @rule(
        query=texts, embedding=embeddings | st.none(), weight=st.sampled_from([0.0, 0.3, 0.5, 1.0]), k=st.integers(0, 9)
    )
    def search(self, query, embedding, weight, k):
        expected = model_scores(self.documents, self.vectors, query, embedding, weight) if self.documents else {}
        found = self.pipeline.search(query, embedding, k, weight)
        agrees(found, expected, k)
        assert self.pipeline.search(query, embedding, k, weight) == found
        batch = self.pipeline.search_batch(
            [query] * 2, None if embedding is None else np.stack([embedding] * 2), k, weight
        )
        for row_ids, row_scores in zip(*batch, strict=True):
            count = np.count_nonzero(row_ids >= 0)
            assert list(zip(row_ids[:count].tolist(), row_scores[:count].tolist(), strict=True)) == found
            assert (row_ids[count:] == -1).all() and (row_scores[count:] == -np.inf).all()

    @rule()
    def shrink(self):
        self.pipeline.shrink_to_fit()

    @invariant()
    def holds_together(self):
        if hasattr(self, "pipeline"):
            self.pipeline.check()
            assert len(self.pipeline) == len(self.documents)
            assert all((key in self.pipeline) == (key in self.documents) for key in (0, 5, 2**63 - 1))


BesideModel.TestCase.settings = settings(max_examples=40, stateful_step_count=25)
TestBesideModel = BesideModel.TestCase


def filled(n=40, **options):
    rng = np.random.default_rng(3)
    pipeline = RetrievalPipeline(DIM, seed=1, **options)
    pipeline.add_documents(np.arange(n), [" ".join(rng.choice(WORDS, 5)) for _ in range(n)], rng.normal(size=(n, DIM)))
    return pipeline


def test_reciprocal_ranks_are_summed_over_the_lists():
    pipeline, query, embedding = filled(), "paged heap", np.array([1.0, 0.2, -0.4])
    dense = [key for key, _ in pipeline.search(query, embedding, 7, 1.0)]
    text = [key for key, _ in pipeline.search(query, embedding, 7, 0.0)]
    expected = {
        key: sum(1 / (61 + ranked.index(key)) for ranked in (dense, text) if key in ranked) for key in {*dense, *text}
    }
    order = sorted(expected, key=lambda key: (-expected[key], key))
    found = pipeline.search(query, embedding, 5, fusion="rrf", depth=7)
    assert [key for key, _ in found] == order[:5]
    assert [score for _, score in found] == pytest.approx([expected[key] for key in order[:5]])


def test_depth_bounds_the_candidates_of_each_side():
    pipeline, embedding = filled(), np.array([1.0, 0.2, -0.4])
    assert len(pipeline.search("paged", embedding, 40, depth=3)) <= 6
    assert len(pipeline.search("paged", embedding, 40, depth=1000)) == 40


@pytest.mark.parametrize(
    "call, error",
    [
        (lambda p: p.add_document(-1, "x"), ValueError),
        (lambda p: p.add_document(True, "x"), TypeError),
        (lambda p: p.add_document(1, b"x"), TypeError),
        (lambda p: p.add_document(1, "x", np.zeros(DIM)), ValueError),
        (lambda p: p.add_document(1, "x", np.ones(DIM + 1)), ValueError),
        (lambda p: p.add_document(1, "x", np.array([1, np.nan, 0])), ValueError),
        (lambda p: p.add_documents([1, 2], ["x"]), ValueError),
        (lambda p: p.add_documents([1, 2], ["x", 5]), TypeError),
        (lambda p: p.add_documents([1, 2], "xy"), TypeError),
        (lambda p: p.add_documents([1, 2], ["x", "y"], np.ones((3, DIM))), ValueError),
        (lambda p: p.add_documents([1, 2], ["x", "y"], np.array([[1, 0, 0], [0, 0, 0]])), ValueError),
        (lambda p: p.remove_document(99), KeyError),
        (lambda p: p.search(5), TypeError),
        (lambda p: p.search("x", top_k=-1), ValueError),
        (lambda p: p.search("x", fusion_weight=1.1), ValueError),
        (lambda p: p.search("x", fusion="sum"), ValueError),
        (lambda p: p.search("x", depth=0), ValueError),
        (lambda p: p.search("x", np.zeros(DIM)), ValueError),
        (lambda p: p.search("x", np.zeros((1, DIM))), ValueError),
        (lambda p: p.search_batch("x"), TypeError),
        (lambda p: p.search_batch(["x"], np.ones((2, DIM))), ValueError),
    ],
)
def test_a_refused_call_changes_nothing(call, error):
    pipeline = filled(10)
    before = pipeline.search("paged heap cache", np.ones(DIM), 10)
    with pytest.raises(error):
        call(pipeline)
    pipeline.check()
    assert pipeline.search("paged heap cache", np.ones(DIM), 10) == before


def test_nothing_to_search_and_nothing_asked_give_nothing():
    pipeline = RetrievalPipeline(DIM)
    assert pipeline.search("paged", np.ones(DIM)) == []
    found, scores = pipeline.search_batch([], np.empty((0, DIM)), 4)
    assert found.shape == scores.shape == (0, 4)
    pipeline.add_documents([], [], np.empty((0, DIM)))
    pipeline = filled(5)
    assert pipeline.search("paged", np.ones(DIM), 0) == []
    assert pipeline.search_batch(["paged"], None, 0)[0].shape == (1, 0)
    assert len(pipeline.search("", np.ones(DIM), 10)) == 5


class CountingEncoder:
    """Counts of the first words; a text of other words has no embedding."""

    def __init__(self):
        self.calls = 0

    def __call__(self, texts):
        self.calls += 1
        return np.array([[text.split().count(word) for word in WORDS[:DIM]] for text in texts], float).reshape(-1, DIM)


def test_an_encoder_encodes_what_has_no_embedding():
    encoder = CountingEncoder()
    pipeline = RetrievalPipeline(DIM, encoder=encoder)
    pipeline.add_documents([1, 2, 3], ["paged paged", "attention", "sketch graph"])
    pipeline.add_document(4, "sketch", np.array([0.0, 1.0, 0.0]))
    assert encoder.calls == 1
    assert [key for key, _ in pipeline.search("attention", top_k=9, fusion_weight=1.0)] == [2, 4, 1]
    assert dict(pipeline.search("sketch"))[4] > 0, "a query without an embedding is answered by text alone"
    found, _ = pipeline.search_batch(["attention", "sketch"], top_k=1, fusion_weight=0.9)
    assert found.ravel().tolist() == [2, 4]


@pytest.mark.parametrize(
    "bad", [lambda texts: np.ones((len(texts), DIM + 1)), lambda texts: np.ones((0, DIM)), lambda texts: "x"]
)
def test_what_an_encoder_gives_is_checked(bad):
    pipeline = RetrievalPipeline(DIM, encoder=bad)
    with pytest.raises((TypeError, ValueError), match="encoder"):
        pipeline.add_document(1, "paged")
    assert len(pipeline) == 0


def test_an_encoder_that_fails_half_way_keeps_a_prefix():
    def encoder(texts):
        if "heap" in texts:
            raise RuntimeError("no heap")
        return np.ones((len(texts), DIM))

    pipeline = RetrievalPipeline(DIM, encoder=encoder)
    with pytest.raises(RuntimeError):
        pipeline.add_documents(np.arange(5000), ["paged"] * 4500 + ["heap"] * 500)
    pipeline.check()
    kept = len(pipeline)
    assert 0 < kept < 4500 and all((key in pipeline) == (key < kept) for key in range(0, 5000, 7))


def test_hot_queries_are_cached_until_the_next_write():
    pipeline = filled(10, hot_threshold=2)
    for _ in range(4):
        first = pipeline.search("paged", np.ones(DIM))
    assert (pipeline.stats()["cache_hits"], pipeline.stats()["cache_size"]) == (2, 1)
    pipeline.search("paged", np.ones(DIM), 3), pipeline.search("paged", np.ones(DIM), fusion="rrf")
    pipeline.search("paged", -np.ones(DIM)), pipeline.search("paged", np.ones(DIM), fusion_weight=0.4)
    assert pipeline.stats()["cache_hits"] == 2, "whatever decides the answer is in the key"
    assert pipeline.stats()["cmsketch_total_count"] == 8
    pipeline.add_document(99, "paged paged paged", np.ones(DIM))
    assert pipeline.stats()["cache_size"] == pipeline.stats()["cache_tokens"] == 0
    assert pipeline.search("paged", np.ones(DIM)) != first
    pipeline.remove_document(99)
    assert pipeline.search("paged", np.ones(DIM)) == first


def test_the_cache_stays_in_its_budget():
    pipeline = filled(20, token_budget=25, hot_threshold=1)
    for word in WORDS:
        pipeline.search(word, np.ones(DIM), 9)
        assert pipeline.stats()["cache_tokens"] <= 25
    assert pipeline.stats()["cache_size"] == 2


def test_vectors_replaced_over_and_over_do_not_pile_up():
    pipeline, rng = filled(30), np.random.default_rng(0)
    pipeline.add_documents(np.arange(30), ["paged"] * 30, rng.normal(size=(30, DIM)))
    before = pipeline.nbytes
    for _ in range(20):
        rows = rng.normal(size=(30, DIM))
        pipeline.add_documents(np.arange(30), ["paged"] * 30, rows)
        pipeline.check()
        query = rng.normal(size=DIM)
        expected = {key: cosine(rows[key], query) for key in range(30)}
        agrees(pipeline.search("", query, 30, 1.0), expected, 30)
    assert pipeline.stats()["hnsw"]["num_vectors"] == 30
    assert pipeline.nbytes <= before + 4096  # the upper layers may grow a little


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_every_metric_ranks_by_similarity(metric):
    rng = np.random.default_rng(0)
    rows, query = rng.normal(size=(20, DIM)), rng.normal(size=DIM)
    pipeline = RetrievalPipeline(DIM, metric=metric)
    pipeline.add_documents(np.arange(20), [""] * 20, rows)
    similarity = {
        "cosine": [cosine(row, query) for row in rows],
        "ip": rows @ query,
        "l2": [-math.dist(row, query) for row in rows],
    }[metric]
    agrees(pipeline.search("", query, 20, 1.0), dict(enumerate(similarity)), 20)


def test_one_seed_gives_one_pipeline():
    face.same_arrays(filled(), filled())


def test_readers_beside_a_writer_see_whole_answers():
    pipeline = RetrievalPipeline(DIM, seed=0)
    row = np.ones(DIM)
    pipeline.add_documents(np.arange(50), ["paged"] * 50, np.tile(row, (50, 1)))
    stop, wrong = threading.Event(), []

    def read():
        while not stop.is_set():
            for key, score in pipeline.search("paged", row, 10, 1.0):
                if score != pytest.approx(1.0) and key < 50:
                    wrong.append((key, score))

    readers = [threading.Thread(target=read) for _ in range(2)]
    [reader.start() for reader in readers]
    for turn in range(200):
        pipeline.add_document(50 + turn % 20, "heap", -row)
        pipeline.add_document(turn % 50, "paged", row)
        if turn % 7 == 0:
            pipeline.remove_document(50 + turn % 20)
    stop.set()
    [reader.join() for reader in readers]
    pipeline.check()
    assert not wrong


def test_files_and_pickles_keep_everything(tmp_path):
    pipeline = filled(30, stop_words="english")
    pipeline.add_document(3, "paged", None)
    pipeline.remove_document(4)
    for other in face.keeps_everything(pipeline, tmp_path, stop_words="english"):
        assert other.search("paged heap", np.ones(DIM)) == pipeline.search("paged heap", np.ones(DIM))
        other.add_document(4, "sketch", np.ones(DIM))
        other.check()


def test_callables_are_given_again_to_load(tmp_path):
    encoder = CountingEncoder()
    pipeline = RetrievalPipeline(DIM, tokenizer=str.split, encoder=encoder)
    pipeline.add_documents([1, 2], ["paged", "attention"])
    pipeline.save(tmp_path / "p.npz")
    with pytest.raises(ValueError, match=r"tokenizer|analysis"):
        RetrievalPipeline.load(tmp_path / "p.npz", encoder=encoder)
    loaded = RetrievalPipeline.load(tmp_path / "p.npz", tokenizer=str.split, encoder=encoder)
    assert loaded.search("paged") == pipeline.search("paged")


def test_no_damaged_file_passes_or_crashes(tmp_path):
    face.survives_damage(filled(12), tmp_path, rounds=200)
    face.refuses_other_files(RetrievalPipeline, tmp_path)


def test_a_tokenizer_is_used_on_both_sides():
    pipeline = RetrievalPipeline(DIM, tokenizer=Tokenizer(stop_words=["paged"]))
    pipeline.add_document(1, "paged attention")
    assert pipeline.search("paged") == [] and len(pipeline.search("attention")) == 1
