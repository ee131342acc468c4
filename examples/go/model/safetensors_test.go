package model

import (
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestHalves(t *testing.T) {
	for bits := 0; bits < 1<<16; bits++ {
		x := HalfToFloat(uint16(bits))
		if math.IsNaN(float64(x)) {
			if got := FloatToHalf(x); got&0x7C00 != 0x7C00 || got&0x3FF == 0 {
				t.Fatalf("NaN %#x becomes %#x", bits, got)
			}
			continue
		}
		if got := FloatToHalf(x); got != uint16(bits) {
			t.Fatalf("%#x is %g and becomes %#x", bits, x, got)
		}
		if bits&0x7FFF >= 0x7C00 {
			continue
		}
		// Between two neighbours: to the even one at the middle, to the nearer one beside it.
		next := HalfToFloat(uint16(bits + 1))
		if bits&0x7FFF == 0x7BFF {
			next = float32(math.Copysign(65536, float64(x)))
		}
		middle := (x + next) / 2
		even := uint16(bits + bits&1)
		if got := FloatToHalf(middle); got != even {
			t.Fatalf("%g becomes %#x, not %#x", middle, got, even)
		}
		if got := FloatToHalf(math.Nextafter32(middle, x)); got != uint16(bits) {
			t.Fatalf("just below %g: %#x, not %#x", middle, got, bits)
		}
	}
}

func TestDamagedFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "model.safetensors")
	get := func(file []byte) error {
		if err := os.WriteFile(path, file, 0o644); err != nil {
			t.Fatal(err)
		}
		tensors, err := openTensors(path)
		if err == nil {
			_, err = tensors.get("x", 2, 2)
		}
		return err
	}
	file := func(header string, data int) []byte {
		return append(append(binary.LittleEndian.AppendUint64(nil, uint64(len(header))), header...), make([]byte, data)...)
	}
	if err := get(file(`{"__metadata__": {"a": "b"}, "x": {"dtype": "F16", "shape": [2, 2], "data_offsets": [0, 8]}}`, 8)); err != nil {
		t.Fatal(err)
	}
	infinite := file(`{"x": {"dtype": "F16", "shape": [2, 2], "data_offsets": [0, 8]}}`, 8)
	binary.LittleEndian.PutUint16(infinite[len(infinite)-2:], 0x7C00)
	for words, damaged := range map[string][]byte{
		"too short":      {1, 2, 3},
		"more than":      binary.LittleEndian.AppendUint64(nil, 1<<40),
		"no JSON":        file(`{"x"`, 0),
		"no tensor":      file(`{}`, 0),
		"shape":          file(`{"x": {"dtype": "F16", "shape": [4], "data_offsets": [0, 8]}}`, 8),
		"of type":        file(`{"x": {"dtype": "I64", "shape": [2, 2], "data_offsets": [0, 32]}}`, 32),
		"outside of the": file(`{"x": {"dtype": "F16", "shape": [2, 2], "data_offsets": [0, 8]}}`, 7),
		"lies outside":   file(`{"x": {"dtype": "F16", "shape": [2, 2], "data_offsets": [8, 0]}}`, 8),
		"infinity":       infinite,
	} {
		if err := get(damaged); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%q: %v", words, err)
		}
	}
}
