"""Vector instructions over rows of bytes, and prefetching, which Numba does not generate from loops.

These functions can be called in compiled code only. An offset is in items of the array, which must be C-contiguous;
nothing is checked. All are written in portable vector IR. On machines with AVX-512 VNNI, one of its instructions
replaces the four that LLVM would generate for the same sum.
"""

import sys
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LINE = 64  # bytes of a cache line, and of a row of codes that one step takes

_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_HALF, _FLOAT = ir.HalfType(), ir.FloatType()
_BYTES, _SUMS, _KEYS = ir.VectorType(_I8, LINE), ir.VectorType(_I32, LINE // 4), ir.VectorType(_I64, 8)
_FOUR, _PAIR, _QUAD = ir.VectorType(_I32, 4), ir.VectorType(_FLOAT, 2), ir.VectorType(_FLOAT, 4)
_EIGHT, _FLOATS = ir.VectorType(_I32, 8), ir.VectorType(_FLOAT, 8)


def _has(context: Any, *features: str) -> bool:
    """Return whether the target machine has these CPU features."""
    have = context.codegen()._get_host_cpu_features().split(",")
    return all(f"+{feature}" in have for feature in features)


def _at(context: Any, builder: Any, signature: Any, arguments: Any, which: int, offset: Any) -> Any:
    """Return the address of an item of an array argument, as bytes."""
    array = context.make_array(signature.args[which])(context, builder, arguments[which])
    return builder.bitcast(builder.gep(array.data, [offset]), _I8.as_pointer())


def _line(builder: Any, address: Any, offset: Any) -> Any:
    """Load the 64 bytes at an address of bytes plus an offset."""
    line = builder.load(builder.bitcast(builder.gep(address, [offset]), _BYTES.as_pointer()))
    line.align = 1
    return line


def _word(builder: Any, address: Any) -> Any:
    """Load the eight bytes at an address, the first one lowest."""
    word = builder.load(builder.bitcast(address, _I64.as_pointer()))
    word.align = 1
    return word if sys.byteorder == "little" else _call(builder, "llvm.bswap.i64", _I64, word)


def _same(builder: Any, value: Any, vector: Any) -> Any:
    """Return a vector whose numbers are all `value`, computed at run time."""
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, _I32(0))
    return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(_I32, vector.count), [0] * vector.count))


def _all(vector: Any, value: float) -> Any:
    """Return a constant vector whose numbers are all `value`."""
    return ir.Constant(vector, [value] * vector.count)


def _call(builder: Any, name: str, result: Any, *arguments: Any) -> Any:
    """Call an LLVM intrinsic."""
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def _add_products(context: Any, builder: Any, sums: Any, unsigned: Any, signed: Any) -> Any:
    """Add to sums int32 (16,) the products of 64 unsigned with 64 signed bytes, four to a sum."""
    if _has(context, "avx512f", "avx512vnni"):
        words = (builder.bitcast(line, _SUMS) for line in (unsigned, signed))
        return _call(builder, "llvm.x86.avx512.vpdpbusd.512", _SUMS, sums, *words)
    for half in (0, LINE // 2):
        pairs = []
        for first in (0, 1):  # a pattern that LLVM recognises: products of neighbours, added in one instruction
            lanes = ir.Constant(ir.VectorType(_I32, 16), [half + first + 2 * lane for lane in range(16)])
            a, b = (builder.shuffle_vector(line, line, lanes) for line in (unsigned, signed))
            a, b = builder.zext(a, ir.VectorType(_I16, 16)), builder.sext(b, ir.VectorType(_I16, 16))
            pairs.append(builder.mul(builder.sext(a, _SUMS), builder.sext(b, _SUMS)))
        sums = builder.add(sums, builder.add(*pairs))
    return sums


def _add_line(context: Any, builder: Any, sums: Any, line: Any, probe: list, packed: bool) -> Any:
    """Add to sums the products of a line of codes with one line of a probe or, if `packed`, with two."""
    if not packed:
        return _add_products(context, builder, sums, line, probe[0])
    low, high = builder.and_(line, _all(_BYTES, 15)), builder.lshr(line, _all(_BYTES, 4))
    return _add_products(context, builder, _add_products(context, builder, sums, low, probe[0]), high, probe[1])


def _lanes(*firsts: int) -> Any:
    """Return a shuffle of two vectors of 16: in each four, the numbers at `firsts` (16 and up: of the second)."""
    return ir.Constant(_SUMS, [four + first for four in range(0, 16, 4) for first in firsts])


def _four_sums(builder: Any, totals: list) -> Any:
    """Return the sum of each of four vectors of 16. All but the last steps stay within four lanes, which is fast."""
    a, b = (
        builder.add(*(builder.shuffle_vector(left, right, _lanes(i, i + 16, i + 1, i + 17)) for i in (0, 2)))
        for left, right in (totals[:2], totals[2:])
    )
    sums = builder.add(*(builder.shuffle_vector(a, b, _lanes(i, i + 1, i + 16, i + 17)) for i in (0, 2)))
    for half in (8, 4):
        low, high = (ir.Constant(ir.VectorType(_I32, half), list(range(i, i + half))) for i in (0, half))
        sums = builder.add(*(builder.shuffle_vector(sums, sums, lanes) for lanes in (low, high)))
    return sums


def _keys_of(builder: Any, distances: Any, slots: Any) -> Any:
    """Return the keys of four candidates, as `hnsw.layout.key_of`."""
    bits = builder.bitcast(distances, _FOUR)
    ordered = builder.xor(bits, builder.and_(builder.ashr(bits, _all(_FOUR, 31)), _all(_FOUR, 0x7FFFFFFF)))
    high = builder.shl(builder.zext(ordered, slots.type), _all(slots.type, 32))
    return builder.or_(high, builder.shl(slots, _all(slots.type, 1)))


def _estimates(packed: bool) -> Any:
    """Return the code generator of four estimates from `lines` lines of codes each."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        (_, _, start, lines, _, at, _, own, scale, shift, _, _, to) = arguments
        probe = _at(context, builder, signature, arguments, 1, start)
        width = builder.mul(lines, _I64(LINE))
        first = builder.bitcast(_at(context, builder, signature, arguments, 4, at), _I64.as_pointer())
        slots = [builder.load(builder.gep(first, [_I64(i)])) for i in range(4)]
        rows = [_at(context, builder, signature, arguments, 0, builder.mul(slot, width)) for slot in slots]
        totals = [cgutils.alloca_once_value(builder, _all(_SUMS, 0)) for _ in rows]
        with cgutils.for_range(builder, lines) as loop:
            place = builder.mul(loop.index, _I64(LINE))
            beside = builder.mul(place, _I64(1 + packed))
            parts = [_line(builder, probe, builder.add(beside, _I64(LINE * part))) for part in range(1 + packed)]
            for row, total in zip(rows, totals, strict=True):
                line = _line(builder, row, place)
                builder.store(_add_line(context, builder, builder.load(total), line, parts, packed), total)
        products = builder.sitofp(_four_sums(builder, [builder.load(total) for total in totals]), _QUAD)
        pairs = []
        for slot in slots:
            term = _at(context, builder, signature, arguments, 6, builder.mul(slot, _I64(2)))
            pairs.append(builder.load(builder.bitcast(term, _PAIR.as_pointer())))
            pairs[-1].align = 4
        four = ir.Constant(_FOUR, [0, 1, 2, 3])
        halves = [builder.shuffle_vector(*pairs[i : i + 2], four) for i in (0, 2)]
        added, times = (builder.shuffle_vector(*halves, ir.Constant(_FOUR, [i, i + 2, i + 4, i + 6])) for i in (0, 1))
        own, scale, shift = (_same(builder, number, _QUAD) for number in (own, scale, shift))
        along = builder.fsub(builder.fmul(scale, products), shift)
        distances = builder.fadd(builder.fadd(own, added), builder.fmul(times, along))
        sound = builder.fcmp_ordered("ord", distances, distances)
        distances = builder.select(sound, distances, _all(_QUAD, float("inf")))
        target = _at(context, builder, signature, arguments, 10, to)
        builder.store(distances, builder.bitcast(target, _QUAD.as_pointer())).align = 4
        many = ir.VectorType(_I64, 4)
        slots = builder.load(builder.bitcast(first, many.as_pointer()))
        slots.align = 8
        target = _at(context, builder, signature, arguments, 11, to)
        builder.store(_keys_of(builder, distances, slots), builder.bitcast(target, many.as_pointer())).align = 8
        return context.get_dummy_value()

    return codegen


def _estimate(
    codes: Any, probe: Any, slots: Any, terms: Any, distances: Any, keys: Any, packed: bool
) -> tuple[Any, Any]:
    """Return signature and code generator of an intrinsic."""
    i, f = types.int64, types.float32
    return types.none(codes, probe, i, i, slots, i, terms, f, f, f, distances, keys, i), _estimates(packed)


def _estimate_int8(typingctx, codes, probe, start, lines, slots, at, terms, own, scale, shift, distances, keys, to):
    """Estimate four distances: distances[to : to + 4], float32, and keys[to : to + 4], int64 (`hnsw.layout.key_of`).

    Of the four slots[at : at + 4] (int64): own + terms[slot, 0] + terms[slot, 1] * (scale * sum - shift), infinity for
    NaN, where the sum is that of codes[slot, j] (uint8) * probe[start + j] (int8), j < 64 * lines. `codes` has `lines`
    lines of 64 bytes a row, `terms` (float32) two columns.
    """
    return _estimate(codes, probe, slots, terms, distances, keys, packed=False)


def _estimate_int4(typingctx, codes, probe, start, lines, slots, at, terms, own, scale, shift, distances, keys, to):
    """Do the same for two codes a byte: in each line, the low halves are the 64 items before those of the high."""
    return _estimate(codes, probe, slots, terms, distances, keys, packed=True)


def _insert(typingctx, pool, start, size, key):
    """Insert `key` into the ascending pool[start : start + size] (int64), whose largest value is dropped.

    `size` is a multiple of 8, and pool[start - 1] exists and is smaller than all. Stops where nothing moves any more.
    """

    def codegen(context, builder, signature, arguments):
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        first = builder.gep(array.data, [arguments[1]])
        one = builder.insert_element(ir.Constant(_KEYS, ir.Undefined), arguments[3], _I32(0))
        key = builder.shuffle_vector(one, one, _all(ir.VectorType(_I32, 8), 0))
        at = cgutils.alloca_once_value(builder, arguments[2])
        body, end = builder.append_basic_block("insert"), builder.append_basic_block("inserted")
        builder.branch(body)
        builder.position_at_end(body)
        place = builder.sub(builder.load(at), _I64(8))
        builder.store(place, at)
        here = builder.bitcast(builder.gep(first, [place]), _KEYS.as_pointer())
        before = builder.gep(first, [builder.sub(place, _I64(1))])
        present = builder.load(here)
        shifted = builder.load(builder.bitcast(before, _KEYS.as_pointer()))
        present.align = shifted.align = 8
        # An item stays, or the key takes its place, or the item before it does.
        later = _call(builder, "llvm.smax.v8i64", _KEYS, shifted, key)
        written = builder.store(_call(builder, "llvm.smin.v8i64", _KEYS, present, later), here)
        written.align = 8
        beyond = builder.icmp_signed(">", builder.load(before), arguments[3])
        builder.cbranch(builder.and_(beyond, builder.icmp_signed(">", place, _I64(0))), body, end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    return types.none(pool, types.int64, types.int64, types.int64), codegen


def _prefetch(typingctx, array, offset, size):
    """Prefetch the cache lines of `size` items from the item at `offset` on."""

    def codegen(context, builder, signature, arguments):
        first = _at(context, builder, signature, arguments, 0, arguments[1])
        width = signature.args[0].dtype.bitwidth // 8
        with cgutils.for_range_slice(builder, _I64(0), builder.mul(arguments[2], _I64(width)), _I64(LINE)) as (at, _):
            # for reading, to keep, data
            _call(builder, "llvm.prefetch.p0", ir.VoidType(), builder.gep(first, [at]), _I32(0), _I32(3), _I32(1))
        return context.get_dummy_value()

    return types.none(array, types.int64, types.int64), codegen


def _float_at(typingctx, array, offset):
    """Load the float32 in the four bytes from `offset` on of a uint8 array."""

    def codegen(context, builder, signature, arguments):
        address = _at(context, builder, signature, arguments, 0, arguments[1])
        value = builder.load(builder.bitcast(address, _FLOAT.as_pointer()))
        value.align = 4
        return value

    return types.float32(array, types.int64), codegen


def _word_at(typingctx, array, offset):
    """Load the uint64 in the eight bytes from `offset` on of a uint8 array, the first byte lowest."""

    def codegen(context, builder, signature, arguments):
        address = _at(context, builder, signature, arguments, 0, arguments[1])
        return _word(builder, address)

    return types.uint64(array, types.int64), codegen


def _unpack(typingctx, data, at, width, numbers, place):
    """Fill numbers[place:place + 8] (int32) with the eight of `width` <= 16 bits that begin with the byte data[at]."""

    def codegen(context, builder, signature, arguments):
        address = _at(context, builder, signature, arguments, 0, arguments[1])
        bits = builder.zext(builder.trunc(arguments[2], _I32), _I64)
        half = builder.mul(bits, _I64(4))
        words = [_word(builder, address), _word(builder, builder.gep(address, [builder.lshr(half, _I64(3))]))]
        lanes: Any = ir.Constant(_KEYS, ir.Undefined)
        for lane in (0, 4):
            lanes = builder.insert_element(lanes, words[lane // 4], _I32(lane))
        lanes = builder.shuffle_vector(lanes, lanes, ir.Constant(ir.VectorType(_I32, 8), [0] * 4 + [4] * 4))
        shifts = builder.mul(_same(builder, bits, _KEYS), ir.Constant(_KEYS, [0, 1, 2, 3] * 2))
        odd = builder.and_(half, _I64(7))  # the second half may begin in the middle of a byte
        high = builder.and_(_same(builder, odd, _KEYS), ir.Constant(_KEYS, [0] * 4 + [-1] * 4))
        mask = builder.sub(builder.shl(_I64(1), bits), _I64(1))
        found = builder.and_(builder.lshr(lanes, builder.add(shifts, high)), _same(builder, mask, _KEYS))
        target = _at(context, builder, signature, arguments, 3, arguments[4])
        stored = builder.store(builder.trunc(found, _EIGHT), builder.bitcast(target, _EIGHT.as_pointer()))
        stored.align = 4
        return context.get_dummy_value()

    return types.none(data, types.int64, types.int64, numbers, types.int64), codegen


def _add_up(typingctx, numbers, place, before):
    """Replace numbers[place:place + 8] (int32) by running sums from `before` on, plus 1 each; return the last."""

    def codegen(context, builder, signature, arguments):
        address = builder.bitcast(_at(context, builder, signature, arguments, 0, arguments[1]), _EIGHT.as_pointer())
        sums = builder.load(address)
        sums.align = 4
        sums, none = builder.add(sums, _all(_EIGHT, 1)), _all(_EIGHT, 0)
        for step in (1, 2, 4):
            moved = ir.Constant(ir.VectorType(_I32, 8), [lane - step if lane >= step else 8 for lane in range(8)])
            sums = builder.add(sums, builder.shuffle_vector(sums, none, moved))
        sums = builder.add(sums, _same(builder, builder.trunc(arguments[2], _I32), _EIGHT))
        stored = builder.store(sums, address)
        stored.align = 4
        return builder.sext(builder.extract_element(sums, _I32(7)), _I64)

    return types.int64(numbers, types.int64, types.int64), codegen


def _at_least(typingctx, numbers, place, limit):
    """Return which of numbers[place:place + 64] (int32) are `limit` or more: uint64, the first one lowest."""

    def codegen(context, builder, signature, arguments):
        address = _at(context, builder, signature, arguments, 0, arguments[1])
        many = ir.VectorType(_I32, 64)
        line = builder.load(builder.bitcast(address, many.as_pointer()))
        line.align = 4
        limit = _same(builder, builder.trunc(arguments[2], _I32), many)
        return builder.bitcast(builder.icmp_signed(">=", line, limit), _I64)

    return types.uint64(numbers, types.int64, types.int64), codegen


def _put_float(typingctx, array, offset, value):
    """Write a float32 to the four bytes from `offset` on of a uint8 array."""

    def codegen(context, builder, signature, arguments):
        address = _at(context, builder, signature, arguments, 0, arguments[1])
        builder.store(arguments[2], builder.bitcast(address, _FLOAT.as_pointer())).align = 4
        return context.get_dummy_value()

    return types.none(array, types.int64, types.float32), codegen


def _half_at(typingctx, array, offset):
    """Load the float16 in the two bytes from `offset` on of a uint8 array, finite, as float32."""

    def codegen(context, builder, signature, arguments):
        address = _at(context, builder, signature, arguments, 0, arguments[1])
        bits = builder.load(builder.bitcast(address, _I16.as_pointer()))
        bits.align = 2
        if _has(context, "f16c") or _has(context, "fullfp16"):
            return builder.fpext(builder.bitcast(bits, _HALF), _FLOAT)
        wide = builder.zext(bits, _I32)
        sign = builder.shl(builder.and_(wide, _I32(0x8000)), _I32(16))
        rest = builder.bitcast(builder.shl(builder.and_(wide, _I32(0x7FFF)), _I32(13)), _FLOAT)
        scaled = builder.fmul(rest, ir.Constant(_FLOAT, 2.0**112))  # the two formats have different exponent biases
        return builder.bitcast(builder.or_(builder.bitcast(scaled, _I32), sign), _FLOAT)

    return types.float32(array, types.int64), codegen


def _mix_parts(typingctx, rows, source, target, signs, part):
    """Multiply eight parts of a row with signs, and transform the eight numbers at each position of the parts.

    rows float32, the parts of `part` numbers (a multiple of 8) each from the item `source` on; signs float32, row 1 of
    two. The Hadamard transform of the numbers at position p goes to the eight items from target + 8 p on.
    """

    def codegen(context, builder, signature, arguments):
        part = arguments[4]
        origin, goal = (_at(context, builder, signature, arguments, 0, arguments[i]) for i in (1, 2))
        sign = _at(context, builder, signature, arguments, 3, builder.mul(part, _I64(8)))
        low, high = (ir.Constant(_EIGHT, [half, half + 8, half + 1, half + 9, half + 2, half + 10, half + 3, half + 11])
                     for half in (0, 4))  # fmt: skip

        def place(first, item):
            return builder.bitcast(builder.gep(first, [builder.mul(item, _I64(4))]), _FLOATS.as_pointer())

        with cgutils.for_range_slice(builder, _I64(0), part, _I64(8)) as (p, _):
            numbers = []
            for i in range(8):
                item = builder.add(builder.mul(part, _I64(i)), p)
                loaded = [builder.load(place(first, item)) for first in (origin, sign)]
                for each in loaded:
                    each.align = 4
                numbers.append(builder.fmul(*loaded))
            for step in (4, 2, 1):
                for i in (i for i in range(8) if not i & step):
                    a, b = numbers[i], numbers[i + step]
                    numbers[i], numbers[i + step] = builder.fadd(a, b), builder.fsub(a, b)
            for _ in range(3):  # a transpose: each turn swaps one bit of the vector number with one of the lane number
                pairs = zip(numbers[:4], numbers[4:], strict=True)
                numbers = [builder.shuffle_vector(a, b, half) for a, b in pairs for half in (low, high)]
            for i, vector in enumerate(numbers):
                item = builder.add(builder.mul(p, _I64(8)), _I64(8 * i))
                builder.store(vector, place(goal, item)).align = 4
        return context.get_dummy_value()

    indexes = types.int64
    return types.none(rows, indexes, indexes, signs, indexes), codegen


def _classify(typingctx, raw, data, block, masks, row):
    """Copy 64 ASCII characters in lower case, and classify them.

    From raw[64 * block:] to data[64 * block:], both uint8. masks[row * block:] (uint64) are filled with five words,
    whose bit i belongs to byte i: letters, digits and `_`; letters; apostrophes; first bytes of wide characters; zeros.
    """

    def codegen(context, builder, signature, arguments):
        offset = builder.mul(arguments[2], _I64(LINE))
        line = _line(builder, _at(context, builder, signature, arguments, 0, offset), _I64(0))

        def among(vector, first, count):
            return builder.icmp_unsigned("<", builder.sub(vector, _all(_BYTES, first)), _all(_BYTES, count))

        cased = builder.select(among(line, ord("A"), 26), _all(_BYTES, 0x20), _all(_BYTES, 0))
        lower = builder.or_(line, cased)
        target = builder.bitcast(_at(context, builder, signature, arguments, 1, offset), _BYTES.as_pointer())
        builder.store(lower, target).align = 1
        letter = among(lower, ord("a"), 26)
        word = builder.or_(letter, builder.or_(among(line, ord("0"), 10), among(line, ord("_"), 1)))
        first = builder.mul(arguments[2], arguments[4])
        place = builder.bitcast(_at(context, builder, signature, arguments, 3, first), _I64.as_pointer())
        for which, bits in enumerate((word, letter, among(line, ord("'"), 1), among(line, 0xC0, 0x40))):
            builder.store(builder.bitcast(bits, _I64), builder.gep(place, [_I64(which)]))
        builder.store(_I64(0), builder.gep(place, [_I64(4)]))
        return context.get_dummy_value()

    return types.none(raw, data, types.int64, masks, types.int64), codegen


def _lowest_bit(typingctx, bits):
    """Return the number of the lowest set bit, int64, of a uint64 that is not 0."""

    def codegen(context, builder, signature, arguments):
        return _call(builder, "llvm.cttz.i64", _I64, arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), codegen


def _count_bits(typingctx, bits):
    """Return how many bits of a uint64 are set, int64."""

    def codegen(context, builder, signature, arguments):
        return _call(builder, "llvm.ctpop.i64", _I64, arguments[0])

    return types.int64(types.uint64), codegen


def _hash_lines(typingctx, data, start, lines):
    """Hash data[start : start + 64 * lines] (uint8) to a uint64 that depends on every bit and its position; not mixed.

    Eight sums of products of the two halves of a word, each word under a key of its own lane and line (as in XXH3,
    Collet 2019); the words themselves are added across, so that a half that meets a zero is not lost.
    """

    def codegen(context, builder, signature, arguments):
        first = _at(context, builder, signature, arguments, 0, arguments[1])
        lanes = range(1, 9)
        start = ir.Constant(_KEYS, [lane * 0x9E3779B97F4A7C15 % 2**64 for lane in lanes])
        step = ir.Constant(_KEYS, [lane * 0xC2B2AE3D27D4EB4F % 2**64 for lane in lanes])
        sums, keys = cgutils.alloca_once_value(builder, start), cgutils.alloca_once_value(builder, start)
        crossed = ir.Constant(_EIGHT, [lane ^ 1 for lane in range(8)])
        half = _all(_KEYS, 32)
        with cgutils.for_range(builder, arguments[2]) as loop:
            words = builder.bitcast(_line(builder, first, builder.mul(loop.index, _I64(LINE))), _KEYS)
            if sys.byteorder == "big":
                words = _call(builder, "llvm.bswap.v8i64", _KEYS, words)
            keyed = builder.xor(words, builder.load(keys))
            low = builder.and_(keyed, _all(_KEYS, 2**32 - 1))
            product = builder.mul(low, builder.lshr(keyed, half))
            added = builder.add(product, builder.shuffle_vector(words, words, crossed))
            builder.store(builder.add(builder.load(sums), added), sums)
            builder.store(builder.add(builder.load(keys), step), keys)
        sums = builder.load(sums)
        sums = builder.mul(builder.xor(sums, builder.lshr(sums, half)), step)
        sums = builder.xor(sums, builder.lshr(sums, _all(_KEYS, 29)))
        return _call(builder, "llvm.vector.reduce.add.v8i64", _I64, sums)

    return types.uint64(data, types.int64, types.int64), codegen


estimate_int8: Any = intrinsic(_estimate_int8)
estimate_int4: Any = intrinsic(_estimate_int4)
insert: Any = intrinsic(_insert)
prefetch: Any = intrinsic(_prefetch)
float_at: Any = intrinsic(_float_at)
word_at: Any = intrinsic(_word_at)
unpack: Any = intrinsic(_unpack)
at_least: Any = intrinsic(_at_least)
add_up: Any = intrinsic(_add_up)
put_float: Any = intrinsic(_put_float)
half_at: Any = intrinsic(_half_at)
mix_parts: Any = intrinsic(_mix_parts)
classify: Any = intrinsic(_classify)
lowest_bit: Any = intrinsic(_lowest_bit)
count_bits: Any = intrinsic(_count_bits)
hash_lines: Any = intrinsic(_hash_lines)
