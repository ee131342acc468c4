#!/usr/bin/env python3
"""A second reader of saved caches, from core/format/FORMAT.md alone: standard library only, slow, independent of the library.

    read_cache.py FILE             prints, for each layer and side, the tokens and a digest of the decoded numbers
    read_cache.py FILE --dump L S  prints the numbers of layer L, side S (k or v), one token and head a line

Of a layer that selects tokens it reads slots, and "p" are the positions of each list, "s" the scores.

The digest is that of the decoded values of all tokens, [tokens][kv_heads][head_dim], rounded to fp32, as little-endian bytes.
Sums are taken as the format says; a reader that adds in another order may differ in the last bits, so golden.py compares numbers.
"""
import math
import struct
import sys

MAGIC = b"\x8bKVG\r\n\x1a\n"


class Refused(Exception):
    pass


def need(condition, words):
    if not condition:
        raise Refused(words)


def make_table():
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


TABLE = make_table()


def crc32c(data):
    state = 0xFFFFFFFF
    for byte in data:
        state = (state >> 8) ^ TABLE[(state ^ byte) & 0xFF]
    return state ^ 0xFFFFFFFF


def f32(x):
    """Rounded to binary32."""
    return struct.unpack("<f", struct.pack("<f", x))[0]


def fp16s(data):
    return struct.unpack(f"<{len(data) // 2}e", data)


class Sections:
    def __init__(self, data):
        need(len(data) >= 128, "cut off")
        need(data[:8] == MAGIC, "not a saved cache")
        order, version = struct.unpack_from("<II", data, 8)
        need(order != 0x04030201, "other byte order")
        need(struct.unpack_from("<I", data, 124)[0] == crc32c(data[:124]), "header damaged")
        need(order == 0x01020304 and version == 1, "newer format")
        self.features, size, self.left = struct.unpack_from("<QQQ", data, 16)
        need(self.features < 8, "unknown features")
        need(not any(data[40:124]), "header")
        need(size == len(data), "cut off or too long")
        self.data, self.at = data, 128

    def next(self, kind, layer=0xFFFFFFFF, side=0xFFFFFFFF, index=0):
        while True:
            need(self.left > 0 and len(self.data) - self.at >= 64, "a section is missing")
            self.left -= 1
            head = self.data[self.at:self.at + 64]
            need(struct.unpack_from("<I", head, 60)[0] == crc32c(head[:60]), "section header damaged")
            found, version, flags, of_layer, of_side, crc, length, of_index = struct.unpack_from("<4sIIIIIQQ", head)
            begin, end = self.at + 64, self.at + 64 + length
            self.at = begin + (length + 63) // 64 * 64
            need(self.at <= len(self.data), "section too long")
            payload = self.data[begin:end]
            need(crc == crc32c(payload) and not any(self.data[end:self.at]), "section damaged")
            if found == kind and version == 1 and flags == 0:
                need((of_layer, of_side, of_index) == (layer, side, index), "section out of order")
                return payload
            need(flags & 1, "unknown section")

    def next_is(self, kind):
        at = self.at
        while self.data[at:at + 4] != kind:
            head = self.data[at:at + 64]
            if len(head) < 64 or not struct.unpack_from("<I", head, 8)[0] & 1:
                return False
            at += 64 + (struct.unpack_from("<Q", head, 24)[0] + 63) // 64 * 64
        return True

    def finish(self):
        need(self.left == 0 and self.at == len(self.data), "something behind the end")


class Basis:
    """Of a side: the matrix that maps rows back, and the widths of its tiles."""
    def __init__(self, payload, kv_heads, head_dim, side):
        dirs = (head_dim + 15) // 16 * 16
        one, tiles = kv_heads * head_dim * dirs, dirs // 16
        matrices = 2 if side == 0 else 1
        need(len(payload) == 2 * one * matrices + kv_heads * tiles, "basis")
        numbers = fp16s(payload[:2 * one * matrices])
        need(all(math.isfinite(x) for x in numbers), "basis is not finite")
        need(not any(numbers[i] for i in range(len(numbers)) if i % dirs >= head_dim), "basis has other directions")
        self.back, self.dim, self.dirs = numbers[-one:], head_dim, dirs
        self.widths = [list(payload[2 * one * matrices + h * tiles:][:tiles]) for h in range(kv_heads)]
        need(all(w in (0, 1, 2, 3, 4, 6, 8) for row in self.widths for w in row), "basis has a width that does not exist")

    def unmapped(self, head, row):
        out = []
        for i in range(self.dim):
            back = self.back[(head * self.dim + i) * self.dirs:][:self.dim]
            sums = [0.0] * 16
            for j in range(self.dim):
                sums[j % 16] = f32(sums[j % 16] + f32(back[j] * row[j]))
            while len(sums) > 1:
                half = len(sums) // 2
                sums = [f32(sums[k] + sums[k + half]) for k in range(half)]
            out.append(sums[0])
        return out


class Segment:
    def __init__(self, record, kv_heads, head_dim, side, basis):
        (self.kind, self.axis, self.bits, self.group, self.rank, _, self.shared, heads, dim, self.map, self.outliers,
         self.first, self.tokens, self.room, self.error, self.norm, self.bytes) = struct.unpack_from("<10IQQQQddQ", record)
        need((heads, dim) == (kv_heads, head_dim) and self.room % 32 == 0 and 0 < self.tokens <= self.room <= 8192, "segment")
        self.heads, self.dim, self.side = heads, dim, side
        self.dirs = (dim + 15) // 16 * 16
        self.blocks, self.tiles = self.room // 32, self.dirs // 16
        need(self.map < 3 and (self.map < 2 or basis is not None), "map")
        self.basis = basis if self.map == 2 else None
        self.widths = self.basis.widths if self.basis else [[self.bits] * self.tiles for _ in range(heads)]
        # Where the codes of each head begin, and of each of its tiles in a block.
        self.head, self.block, self.tile, at = [], [], [], 0
        for widths in self.widths:
            self.head.append(at)
            self.block.append(64 * sum(widths))
            self.tile.append([64 * sum(widths[:i]) for i in range(self.tiles)])
            at += self.blocks * self.block[-1]
        self.codes = at

    def layout(self):
        """Name: (offset, length) of each array, and the length of the whole."""
        arrays, end = {}, 0

        def place(name, length, align):
            nonlocal end
            if length:
                end = (end + align - 1) // align * align
                arrays[name] = (end, length)
                end += length
        if self.kind == 0:
            place("rows", self.heads * self.room * self.dim * 2, 64)
            return arrays, end
        place("codes", self.codes, 64)
        if self.axis == 1:
            self.groups = self.room // self.group
            scales = self.heads * self.groups * self.dirs
        else:
            self.groups = -(-self.dim // self.group)
            scales = (1 if self.shared else self.heads) * self.groups * self.room
        place("scale", scales * 2, 64)
        place("minimum", scales * 2, 64)
        place("a", self.heads * self.rank * self.room * 2, 64)
        place("b", self.heads * self.rank * self.dirs * 2, 64)
        if self.outliers:
            entries = 2 * self.outliers * (self.heads * self.dim if self.side == 0 else self.room)
            place("value", entries * 2, 64)
            place("direction", entries, 64)
            place("count", self.heads * self.room, 64)
            place("start", self.heads * (self.blocks + 1) * 4, 64)
        place("head", self.heads * 8, 8)
        place("block", self.heads * 4, 4)
        place("width", self.heads * self.tiles, 1)
        return arrays, end

    def decode(self, payload):
        """values[token][head][direction] as floats that binary32 holds."""
        arrays, total = self.layout()
        need(total == self.bytes == len(payload), "payload of another size than its form has")
        get = {name: payload[at:at + length] for name, (at, length) in arrays.items()}
        if self.kind == 0:
            rows = fp16s(get["rows"])
            return [[list(rows[(h * self.room + t) * self.dim:][:self.dim]) for h in range(self.heads)] for t in range(self.tokens)]
        need(struct.unpack(f"<{self.heads}Q", get["head"]) == tuple(self.head)
             and struct.unpack(f"<{self.heads}I", get["block"]) == tuple(self.block)
             and list(get["width"]) == sum(self.widths, []), "codes of another layout than the form has")
        codes = get.get("codes", b"")
        scale, minimum = fp16s(get["scale"]), fp16s(get["minimum"])
        a, b = fp16s(get.get("a", b"")), fp16s(get.get("b", b""))
        out = []
        for t in range(self.tokens):
            out.append([[self.entry(codes, scale, minimum, a, b, h, t, d) for d in range(self.dim)] for h in range(self.heads)])
        if self.outliers:
            self.add_outliers(get, out)
        if self.map == 2:
            out = [[self.basis.unmapped(h, row) for h, row in enumerate(token)] for token in out]
        if self.map == 1:
            out = [[self.unmapped(row) for row in token] for token in out]
        return out

    def entry(self, codes, scale, minimum, a, b, h, t, d):
        if self.axis == 1:
            at = (h * self.groups + t // self.group) * self.dirs + d
        else:
            at = ((0 if self.shared else h) * self.groups + d // self.group) * self.room + t
        x = f32(f32(scale[at] * self.code(codes, h, t, d)) + minimum[at])
        repair = 0.0
        for r in range(self.rank):
            repair = f32(repair + f32(a[(h * self.rank + r) * self.room + t] * b[(h * self.rank + r) * self.dirs + d]))
        return f32(x + repair) if self.rank else x

    def code(self, codes, h, t, d):
        width = self.widths[h][d // 16]
        tile = self.head[h] + t // 32 * self.block[h] + self.tile[h][d // 16]
        t, d = t % 32, d % 16
        if self.side == 0:
            lane, pair, hi = t % 16, (t // 16) * 8 + d // 2, d % 2
        else:
            lane, pair, hi = d, t // 2, t % 2
        value, shift = 0, 0
        for bits in {0: (), 3: (2, 1), 6: (4, 2)}.get(width, (width,)):
            per = 16 // bits
            word, = struct.unpack_from("<I", codes, tile + ((pair // per) * 16 + lane) * 4)
            value |= ((word >> (bits * (pair % per) + 16 * hi)) & ((1 << bits) - 1)) << shift
            tile += 64 * bits
            shift += bits
        return value

    def add_outliers(self, get, out):
        value, direction, count = fp16s(get["value"]), get["direction"], get["count"]
        start = struct.unpack(f"<{len(get['start']) // 4}I", get["start"])
        for h in range(self.heads):
            for block in range(self.blocks):
                entry = start[h * (self.blocks + 1) + block]
                for t in range(block * 32, block * 32 + 32):
                    for _ in range(count[h * self.room + t]):
                        need(entry < len(value) and direction[entry] < self.dim, "outlier")
                        if t < self.tokens:
                            out[t][h][direction[entry]] = f32(out[t][h][direction[entry]] + value[entry])
                        entry += 1
                need(entry == start[h * (self.blocks + 1) + block + 1], "outliers do not add up")

    def unmapped(self, row):
        n = self.dim & -self.dim
        out = []
        for begin in range(0, self.dim, n):
            run, step = row[begin:begin + n], 1
            while step < n:
                for i in range(n):
                    if not i & step:
                        u, v = run[i], run[i + step]
                        run[i], run[i + step] = f32(u + v), f32(u - v)
                step *= 2
            out += run
        return out


def read_selection(sections, layer, kv_heads):
    """(slots, positions and scores of each list) of a layer that selects tokens."""
    need(sections.features & 2, "a selection without its feature")
    payload = sections.next(b"SLCT", layer)
    (length, held, selected, sealed_end, prompt, pruned, observed, scored, lists, flags) = struct.unpack_from("<8QII", payload)
    need(not any(payload[72:128]) and flags in (0, 1, 3) and lists in (1, kv_heads), "selection")
    need(scored <= held <= length < 1 << 32 and prompt <= selected <= length and sealed_end <= length and pruned <= held, "selection")
    with_score = held - scored if flags & 1 else 0
    need(flags & 1 or (scored == 0 and observed == 0), "selection")
    need(len(payload) == 128 + 4 * lists * (held + with_score * (flags & 1) + with_score * (flags >> 1)), "selection")
    numbers = struct.unpack_from(f"<{lists * held}I", payload, 128)
    scores = struct.unpack_from(f"<{lists * with_score}f", payload, 128 + 4 * lists * held)
    positions = [numbers[i * held:][:held] for i in range(lists)]
    need(all(len(set(p)) == held and all(x < length for x in p) for p in positions), "positions")
    need(all(0 <= x < 1.7014118e38 for x in scores), "scores")
    return held, positions, [scores[i * with_score:][:with_score] for i in range(lists)]


def check_seen(payload, kv_heads, head_dim):
    rows, = struct.unpack_from("<Q", payload)
    half = head_dim * (head_dim + 1) // 2
    sums = struct.unpack_from(f"<{kv_heads * half}q", payload, 8)
    need(len(payload) == 8 + 8 * kv_heads * half and rows <= 3 << 16, "queries seen")
    for h in range(kv_heads):
        squares = [sums[h * half + i * (i + 1) // 2 + i] for i in range(head_dim)]
        need(all(0 <= x <= rows << 44 for x in squares), "queries seen")
        for i in range(head_dim):
            for j in range(i):
                need(sums[h * half + i * (i + 1) // 2 + j] ** 2 <= squares[i] * squares[j] * (1 + 2e-9), "queries seen")


def read(data):
    """(identity, {(layer, side): values}) of a saved cache; raises Refused."""
    sections = Sections(data)
    model = sections.next(b"MODL")
    need(len(model) >= 32, "model")
    layers, q_heads, kv_heads, head_dim, first_layer, saved, print_bytes, zero = struct.unpack_from("<8I", model)
    need(zero == 0 and len(model) == 32 + print_bytes and first_layer + saved <= layers, "model")
    plan = sections.next(b"PLAN")
    texts, count = struct.unpack_from("<II", plan)
    need(count == saved, "recipes")
    of, at, names = struct.unpack_from(f"<{count}I", plan, 8), 8 + 4 * count, []
    for _ in range(texts):
        length, = struct.unpack_from("<I", plan, at)
        names.append(plan[at + 4:at + 4 + length].decode())
        at += 4 + length
    need(at == len(plan), "recipes")
    values = {}
    for layer in range(first_layer, first_layer + saved):
        slots = None
        if sections.next_is(b"SLCT"):
            slots, values[layer, "p"], values[layer, "s"] = read_selection(sections, layer, kv_heads)
        for side in (0, 1):
            table = sections.next(b"SIDE", layer, side)
            first, full, pages, first_row, rows, flags, factors, due, heads, dim = struct.unpack_from("<5QIIQII", table)
            need(len(table) == 64 + 128 * (full + pages) and pages <= 1, "table")
            if flags & 4:
                need(sections.features & 4 and flags == 4 and 0 < heads <= 65536 and 0 < dim <= 256, "latents")
            else:
                need(factors == heads == dim == 0, "table")
                heads, dim = kv_heads, head_dim
            need(flags < 8 and (sections.features & 1 or flags & 3 == due == 0), "a basis without its feature")
            basis = Basis(sections.next(b"BASE", layer, side), kv_heads, head_dim, side) if flags & 1 else None
            need(slots is None or (first, pages, flags, due, first_row + rows) == (0, 0, 0, 0, slots), "slots")
            tokens, end = [], first
            for i in range(full + pages):
                segment = Segment(table[64 + 128 * i:192 + 128 * i], heads, dim, side, basis)
                need(segment.first == end and (segment.tokens == segment.room or i >= full), "tokens do not follow one another")
                tokens += segment.decode(sections.next(b"DATA", layer, side, i))
                end += segment.tokens
            need(first_row == end, "tokens do not follow one another")
            if rows:
                window = sections.next(b"WNDW", layer, side)
                need(len(window) == rows * heads * dim * 2, "window")
                numbers = fp16s(window)
                tokens += [[list(numbers[(h * rows + t) * dim:][:dim]) for h in range(heads)] for t in range(rows)]
            if flags & 2:
                need(side == 0, "queries seen by values")
                check_seen(sections.next(b"SEEN", layer, side), kv_heads, head_dim)
            need(all(math.isfinite(x) for token in tokens for row in token for x in row), "not finite")
            values[layer, "kv"[side]] = tokens
    sections.finish()
    return {"layers": layers, "q_heads": q_heads, "kv_heads": kv_heads, "head_dim": head_dim,
            "recipes": [names[i] for i in of], "fingerprint": model[32:]}, values


def main(arguments):
    with open(arguments[0], "rb") as file:
        data = file.read()
    try:
        identity, values = read(data)
    except (Refused, struct.error, IndexError) as why:
        print(f"refused: {why}")
        return 1
    if arguments[1:2] == ["--dump"]:
        for token in values[int(arguments[2]), arguments[3]]:
            for row in token:
                print(" ".join(f"{x:.9g}" for x in row))
        return 0
    print(identity)
    for line in digests(values):
        print(line)
    return 0


def digests(values):
    """A line for each layer and side: tokens and CRC; of positions and scores the lists one behind another."""
    for (layer, side), of in values.items():
        flat = [x for part in of for x in part] if side in "ps" else [x for token in of for row in token for x in row]
        if flat:
            packed = struct.pack(f"<{len(flat)}{'I' if side == 'p' else 'f'}", *flat)
            yield f"{layer} {side} {len(of[0] if side in 'ps' else of)} {crc32c(packed):08x}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
