"""The analysis beside a plain reading of its rules, character by character."""

import gzip
import json
import pickle
import re
import sys
import types
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmds.inverted_index.index import InvertedIndex
from llmds.kernels import tokenizer as kernels
from llmds.tokenizer import segmentation
from llmds.tokenizer import tokenizer as module
from llmds.tokenizer.tokenizer import Tokenizer
from llmds.tokenizer.vocabulary import Terms, Vocabulary

tricky = st.sampled_from(
    list("aZ9_'-. \n\x00'") + list("’éßİſΐ٣ﬁ①‿〇々〆東ひゖゝカーｶ\u0301\u0345\ufe00葛＇")
    + list("ÅΣσς\u1100\u1161\u11a8각ＡＺ＿\u0327\u09c7\u09be\xad\u200d\x85\xa0㎏")
    + ["\U000e0100", "\U0001f600", "\U00020000", "\U000103ff", "\ud800", "\U0010ffff", "\u3099", "a'b", "x’y"]
)  # fmt: skip
# What comes before decides where the rest meets the edges of a kernel's blocks of 64 bytes.
before = st.sampled_from(["", "", "a" * 60, " " * 61, "a'" * 31, "é" * 32, "東" * 21, "x" * 130])
texts = st.tuples(before, st.lists(tricky | st.characters(), max_size=12).map("".join)).map("".join)
ascii_texts = st.text(st.characters(max_codepoint=127), max_size=30)


def stands_alone(character):
    """Han or Hiragana: by name, as the standard library has no scripts."""
    if unicodedata.category(character)[0] not in "LMN":
        return False
    name = unicodedata.name(character, "")
    return name.startswith(("CJK UNIFIED", "CJK COMPATIBILITY IDEOGRAPH", "HIRAGANA", "HENTAIGANA", "HANGZHOU")) or (
        character in "々〇〻\U00016ff0\U00016ff1\U00016fe3"
    )


def plainly(text):
    """The rules, one character after the other."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    text = text.casefold().replace("’", "'")
    terms, run = [], ""

    def letter(at):
        return 0 <= at < len(text) and unicodedata.category(text[at])[0] == "L" and not stands_alone(text[at])

    for at, character in enumerate(text):
        category = unicodedata.category(character)
        if stands_alone(character):
            terms += [run, character]
            run = ""
        elif category[0] in "LMN" or category == "Pc" or (character == "'" and letter(at - 1) and letter(at + 1)):
            run += character
        else:
            terms.append(run)
            run = ""
    return [term for term in [*terms, run] if term]


@given(texts)
def test_terms_are_what_the_rules_say(text):
    assert Tokenizer().tokenize(text) == plainly(text)


@given(st.lists(texts | ascii_texts, max_size=5))
def test_texts_in_bulk_give_what_each_gives(many):
    terms = Tokenizer().terms(many)
    strings, ends = terms.strings(), [0, *terms.ends.tolist()]
    assert [strings[ends[i] : ends[i + 1]] for i in range(len(many))] == [plainly(text) for text in many]


@given(ascii_texts)
def test_the_short_table_gives_what_the_long_one_gives(text):
    short = Tokenizer().tokenize(text)
    assert short == Tokenizer().tokenize(text + " é")[:-1] == plainly(text)


def test_every_character_has_the_class_its_category_gives():
    every = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    table = segmentation.character_classes()
    for character in every:
        code, category = ord(character), unicodedata.category(character)
        if stands_alone(character):
            expected = kernels.ALONE
        elif category[0] == "L":
            expected = kernels.LETTER
        elif category[0] in "MN" or category == "Pc":
            expected = kernels.OTHER
        else:
            expected = kernels.SEPARATOR
        assert (table[code] if code < len(table) else kernels.SEPARATOR) == expected, hex(code)


@pytest.mark.parametrize("character", ["a", "'", "é", "Ｚ", "東", "\U00020000", "ﬁ", " "])
def test_a_text_may_end_anywhere_in_a_block(character):
    for length in range(130):
        for text in (character * length, "b" * length + character, character + "'" * length + character):
            assert Tokenizer().terms([text, text]).strings() == 2 * plainly(text)


def test_a_term_may_be_as_long_as_a_text():
    for long in ("a" * (1 << 20), "é" * (1 << 20), "it's" * (1 << 18)):
        assert Tokenizer().tokenize(f"x {long} y") == ["x", long, "y"]


_ASCII_TERM = re.compile("[a-z0-9_]+(?:(?<=[a-z])'(?=[a-z])[a-z0-9_]+)*")


@pytest.mark.parametrize("name, step", [("cisi", 1), ("cranfield", 1), ("newsgroups", 8), ("cppdocs", 8)])
def test_corpora_give_what_the_rules_say(data, name, step):
    with gzip.open(data / name / "corpus.jsonl.gz", "rt", encoding="utf-8") as lines:
        many = [json.loads(line)["text"] for line in lines]
    many = [text for i, text in enumerate(many) if i % step == 0 or not text.isascii()]
    terms = Tokenizer().terms(many)
    strings, ends = terms.strings(), [0, *terms.ends.tolist()]
    for i, text in enumerate(many):
        expected = _ASCII_TERM.findall(text.lower()) if text.isascii() else plainly(text)
        assert strings[ends[i] : ends[i + 1]] == expected, text


def test_every_character_is_folded_as_python_does():
    folds = segmentation.case_folds()
    assert all(chr(code).casefold() == chr(code) for code in range(len(folds), 0x110000))
    elsewhere = re.compile("|".join(map(chr, np.flatnonzero(folds == kernels.ELSEWHERE))))
    every = [f"a{chr(code)}b'{chr(code)}'b" for code in range(len(folds))]
    for in_place in (True, False):
        many = [text for text in every if (elsewhere.search(segmentation.normalised(text)) is None) == in_place]
        assert segmentation.classified(segmentation.packed("texts", many, segmentation.normalised)[0])[2] == in_place
        terms = Tokenizer().terms(many)
        strings, ends = terms.strings(), [0, *terms.ends.tolist()]
        assert [strings[ends[i] : ends[i + 1]] for i in range(len(many))] == list(map(plainly, many))


def test_the_rules_by_example():
    tokenize = Tokenizer().tokenize
    assert tokenize("Rock'n'roll 'quoted' o'clock's x' 'y a''b") == [
        "rock'n'roll",
        "quoted",
        "o'clock's",
        "x",
        "y",
        "a",
        "b",
    ]
    assert tokenize("don’t 90's café's") == ["don't", "90", "s", "café's"]
    assert tokenize("Straße ﬁne İ KELVIN\u212a") == ["strasse", "fine", "i\u0307", "kelvink"]
    assert tokenize("snake_case x2 3.14 a-b") == ["snake_case", "x2", "3", "14", "a", "b"]
    assert tokenize("東京へ行くTokyoタワー") == ["東", "京", "へ", "行", "く", "tokyoタワー"]
    assert tokenize("한국어 हिन्दी") == ["한국어", "हिन्दी"]
    assert tokenize("a'東") == ["a", "東"] and tokenize("") == tokenize(" '…") == []


def test_long_texts_are_cut_in_several_calls(monkeypatch):
    text = "It's a Long tale, o’er 東京 and Éire " * 50
    whole = Tokenizer().tokenize(text)
    monkeypatch.setattr(segmentation, "_STEP", 1)
    assert Tokenizer().tokenize(text) == whole == plainly(text)


def test_bytes_that_are_no_utf8_are_read_within_bounds():
    for bad in (b"\xf0", b"a\xe3", b"\xc3", b"\xff\xff\xff\xffa", b"a'\xe6", b"\x80\x80"):
        raw = np.frombuffer(b" " * (63 - len(bad)) + bad + b" " * 65, np.uint8)
        data, masks, _ = segmentation.classified(raw)
        terms = segmentation.delimited(data, masks, np.array([0, 63]))
        assert terms.ends.tolist() == [len(terms.starts)]
        assert terms.strings() == [letter for letter in "a" if b"a" in bad]


def test_stop_words_go_and_stems_replace():
    text = "The heaps of the HEAP, and don't heaping"
    assert Tokenizer(stop_words="english").tokenize(text) == ["heaps", "heap", "don't", "heaping"]
    assert Tokenizer(stop_words={"Heaps", "DON’T"}).tokenize(text) == ["the", "of", "the", "heap", "and", "heaping"]
    stems = Tokenizer(stop_words=("heaps",), stemmer=lambda term: "" if term == "of" else term[:4])
    assert stems.tokenize(text) == ["the", "the", "heap", "and", "don'", "heap"]
    assert stems.tokenize("") == [] and Tokenizer(stop_words=[]).tokenize("the") == ["the"]


def test_a_stemmer_is_asked_once_for_each_term():
    asked = []
    tokenizer = Tokenizer(stemmer=lambda term: asked.append(term) or term.rstrip("s"))
    assert tokenizer.tokenize("cats cat cats") == ["cat", "cat", "cat"]
    assert tokenizer.terms(["dogs cats", "dog dogs é"]).strings() == ["dog", "cat", "dog", "dog", "é"]
    assert asked == ["cats", "cat", "dogs", "dog", "é"]


def test_a_stemmer_that_fails_is_asked_again(monkeypatch):
    def stemmer(term):
        if term in broken:
            raise RuntimeError(term)
        return term + "1"

    broken, tokenizer = {"b"}, Tokenizer(stemmer=stemmer)
    with pytest.raises(RuntimeError):
        tokenizer.tokenize("a b c")
    broken.clear()
    assert tokenizer.tokenize("c b a") == ["c1", "b1", "a1"]
    monkeypatch.setattr(module, "_MOST_FORMS", 2)
    assert tokenizer.tokenize("d c b a") == ["d1", "c1", "b1", "a1"]


class Spaces:
    def tokenize(self, text):
        return text.split(" ")


@pytest.mark.parametrize("split", [str.split, Spaces()])
def test_a_tokenizer_of_ones_own_replaces_the_rules(split):
    tokenizer = Tokenizer(split=split, stop_words=["The"], stemmer=lambda term: term[::-1])
    assert tokenizer.tokenize("The the Cat-é") == ["eht", "é-taC"]
    assert pickle.loads(pickle.dumps(Tokenizer(split=split))).tokenize("a b") == ["a", "b"]


def upper(term):
    return term.upper()


class Named:
    fingerprint = "mine, version 2"

    def __call__(self, text):
        return [text]


def test_equal_analyses_have_equal_fingerprints_and_others_have_not():
    different = [
        Tokenizer(), Tokenizer(stop_words=[]), Tokenizer(stop_words="english"), Tokenizer(stop_words=["a", "b"]),
        Tokenizer(stemmer=upper), Tokenizer(split=str.split), Tokenizer(split=Spaces()), Tokenizer(split=Named()),
    ]  # fmt: skip
    assert len({tokenizer.fingerprint for tokenizer in different}) == len(different)
    assert Tokenizer(stop_words=["B", "a", "a"]).fingerprint == Tokenizer(stop_words={"a", "b"}).fingerprint
    assert unicodedata.unidata_version in Tokenizer().fingerprint and "version 2" in different[-1].fingerprint
    copy = pickle.loads(pickle.dumps(Tokenizer(stemmer=upper, stop_words=["a"])))
    assert copy.fingerprint == Tokenizer(stemmer=upper, stop_words=["a"]).fingerprint and copy.tokenize("a b") == ["B"]
    assert Tokenizer().fingerprint in repr(Tokenizer())


@pytest.mark.parametrize(
    "call, error",
    [
        (lambda: Tokenizer(stop_words="german"), ValueError),
        (lambda: Tokenizer(stop_words=["two words"]), ValueError),
        (lambda: Tokenizer(stop_words=["a", ""]), ValueError),
        (lambda: Tokenizer(stop_words=[1]), TypeError),
        (lambda: Tokenizer(stop_words=7), TypeError),
        (lambda: Tokenizer(stemmer="porter"), TypeError),
        (lambda: Tokenizer(split=7), TypeError),
        (lambda: Tokenizer(encoding=7), TypeError),
        (lambda: Tokenizer().tokenize(b"a"), TypeError),
        (lambda: Tokenizer().terms("abc"), TypeError),
        (lambda: Tokenizer().terms(["a", None]), TypeError),
        (lambda: Tokenizer().terms(["é", 7]), TypeError),
        (lambda: Tokenizer().terms(np.array([["a"], ["b"]])), TypeError),
        (lambda: Tokenizer(split=str.split).terms("abc"), TypeError),
        (lambda: Tokenizer(split=lambda text: "abc").tokenize("a"), TypeError),
        (lambda: Tokenizer(split=lambda text: [1]).tokenize("a"), TypeError),
        (lambda: Tokenizer(stemmer=lambda term: None).tokenize("a"), TypeError),
        (lambda: Tokenizer().encode(None), TypeError),
        (lambda: Tokenizer().count_tokens(None), TypeError),
        (lambda: Tokenizer().decode([256]), ValueError),
        (lambda: Tokenizer().decode([-1]), ValueError),
        (lambda: Tokenizer().decode([0.5]), TypeError),
    ],
)
def test_bad_arguments_are_named(call, error):
    with pytest.raises(error, match=r"stop_words|stemmer|tokenizer|encoding|text|tokens"):
        call()


@given(st.text())
def test_bytes_are_the_tokens_where_no_model_is_named(text):
    tokenizer = Tokenizer()
    tokens = tokenizer.encode(text)
    assert tokenizer.decode(tokens) == tokenizer.decode(np.array(tokens, np.int32)) == text
    assert tokenizer.count_tokens(text) == len(tokens)
    assert all(token < tokenizer.get_vocab_size() for token in tokens)


def test_tiktoken_and_tokenizers_stand_behind_it_where_they_are_named(monkeypatch):
    class Tiktoken:
        n_vocab = 99

        def encode(self, text):
            raise AssertionError("refuses special tokens in a text")

        def encode_ordinary(self, text):
            return [ord(character) for character in text]

        def decode(self, tokens):
            return "".join(map(chr, tokens))

    class Tokenizers:
        def encode(self, text, add_special_tokens):
            assert not add_special_tokens
            return types.SimpleNamespace(ids=[len(word) for word in text.split()])

        def decode(self, tokens, skip_special_tokens):
            assert not skip_special_tokens
            return " ".join("x" * token for token in tokens)

        def get_vocab_size(self):
            return 7

    loaded = []
    tiktoken = types.SimpleNamespace(
        get_encoding=lambda name: loaded.append(name) or Tiktoken(), list_encoding_names=lambda: ["base", "large"]
    )
    tokenizers = types.SimpleNamespace(
        Tokenizer=types.SimpleNamespace(from_file=lambda name: loaded.append(name) or Tokenizers())
    )
    monkeypatch.setitem(sys.modules, "tiktoken", tiktoken)
    monkeypatch.setitem(sys.modules, "tokenizers", tokenizers)
    module._encoding.cache_clear()
    by_name, by_path, by_object = (
        Tokenizer(encoding="base"),
        Tokenizer(encoding="my.json"),
        Tokenizer(encoding=Tiktoken()),
    )
    assert loaded == [], "nothing is loaded before it is used"
    for tokenizer in (by_name, by_object):
        assert tokenizer.encode("ab") == [97, 98] and tokenizer.count_tokens("ab") == 2
        assert tokenizer.decode(np.array([97, 98])) == "ab" and tokenizer.get_vocab_size() == 99
    assert by_path.encode("ab c") == [2, 1] and by_path.decode([2, 1]) == "xx x" and by_path.get_vocab_size() == 7
    assert loaded == ["base", "my.json"]
    with pytest.raises(ValueError, match=r"one of base, large, got 'x'"):
        Tokenizer(encoding="x").encode("a")
    module._encoding.cache_clear()


@pytest.mark.parametrize("name, package", [("cl100k_base", "tiktoken"), ("x.json", "tokenizers")])
def test_a_missing_package_is_named(name, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    module._encoding.cache_clear()
    with pytest.raises(ImportError, match=f"pip install {package}"):
        Tokenizer(encoding=name).encode("a")


words = st.lists(
    st.text(max_size=4) | st.sampled_from(["a", "b", "aa", ""]) | st.text("ab", min_size=6, max_size=26), max_size=30
)


@given(st.binary(max_size=40), st.binary(max_size=20), st.binary(max_size=20))
def test_a_hash_is_of_the_bytes_of_the_term_alone(term, before, after):
    found = set()
    for data in (term, before + term, term + after, before + term + after):
        hashes, start = np.empty(1, np.uint32), np.array([data.index(term)], np.int32)
        kernels.hash_terms(np.frombuffer(bytearray(data), np.uint8), start, start + np.int32(len(term)), hashes)
        found.add(int(hashes[0]))
    assert len(found) == 1


@given(st.lists(words, max_size=4), st.sets(st.integers(0, 40)))
def test_a_vocabulary_numbers_terms_in_the_order_they_come(batches, leaving):
    def packed(strings):
        return Terms.of_strings("terms", strings, np.array([len(strings)]))

    vocabulary, model = Vocabulary.empty(0, 0), {}
    for batch in batches:
        before = vocabulary
        vocabulary, numbers = vocabulary.intern(packed(batch))
        assert numbers.tolist() == [model.setdefault(word, len(model)) for word in batch]
        assert vocabulary.fault() is None and before.fault() is None, "readers of the older tuple go on"
        assert vocabulary.strings(0) == list(model)
    assert vocabulary.find(packed([*model, "absent"])).tolist() == [*range(len(model)), -1]
    keep = np.array([number not in leaving for number in range(len(model))], bool)
    smaller, renumbered = vocabulary.kept(keep)
    kept = [word for word, number in model.items() if number not in leaving]
    assert smaller.fault() is None and smaller.strings(0) == kept
    assert smaller.find(packed(list(model))).tolist() == renumbered.tolist()
    assert sum(array.nbytes for array in smaller) <= sum(
        array.nbytes for array in Vocabulary.empty(len(kept), 120 * len(kept))
    )


def test_every_kind_of_text_shares_one_compilation():
    Tokenizer(stop_words="english").terms(np.array(["a é", "b"])), Tokenizer().tokenize("the")
    Tokenizer(split=str.split, stemmer=upper).tokenize("a")
    for kernel in (
        kernels.classify,
        kernels.classify_wide,
        kernels.delimit,
        kernels.cut,
        kernels.hash_terms,
        kernels.find,
        kernels.intern,
        kernels.keep_unknown,
        kernels.rehash,
    ):
        assert len(kernel.signatures) <= 1, kernel


def test_the_stemmer_of_a_library_finds_every_form(tmp_path):
    stemmer = pytest.importorskip("Stemmer").Stemmer("english").stemWord
    index = InvertedIndex(stop_words="english", stemmer=stemmer)
    index.add_documents([1, 2], ["Caching the pages", "a pager"])
    assert [doc_id for doc_id, _ in index.search("page caches")] == [1]
    index.save(tmp_path / "index.npz")
    again = InvertedIndex.load(tmp_path / "index.npz", stop_words="english", stemmer=stemmer)
    assert again.search("page caches") == index.search("page caches")
