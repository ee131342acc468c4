// Package model runs a small Llama-shaped decoder whose tokens are bytes. It computes everything itself but attention over
// the cache, which is kvgear's.
package model

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"slices"
)

// tensors are those of a safetensors file.
type tensors struct {
	path  string
	data  []byte
	index map[string]struct {
		DType   string    `json:"dtype"`
		Shape   []int     `json:"shape"`
		Offsets [2]uint64 `json:"data_offsets"`
	}
}

func openTensors(path string) (*tensors, error) {
	file, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if len(file) < 8 {
		return nil, fmt.Errorf("%s is too short for a safetensors file", path)
	}
	header := binary.LittleEndian.Uint64(file)
	if header > uint64(len(file)-8) {
		return nil, fmt.Errorf("%s says that its header has %d bytes, more than the file", path, header)
	}
	t := &tensors{path: path, data: file[8+header:]}
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(file[8:8+header], &raw); err != nil {
		return nil, fmt.Errorf("the header of %s is no JSON: %w", path, err)
	}
	delete(raw, "__metadata__")
	rest, err := json.Marshal(raw)
	if err == nil {
		err = json.Unmarshal(rest, &t.index)
	}
	if err != nil {
		return nil, fmt.Errorf("the header of %s: %w", path, err)
	}
	return t, nil
}

// get returns a tensor as float32, which must exist and have this shape.
func (t *tensors) get(name string, shape ...int) ([]float32, error) {
	entry, found := t.index[name]
	if !found {
		return nil, fmt.Errorf("%s has no tensor %q", t.path, name)
	}
	if !slices.Equal(entry.Shape, shape) {
		return nil, fmt.Errorf("%s: %q has the shape %v, not %v", t.path, name, entry.Shape, shape)
	}
	size, found := map[string]int{"F32": 4, "F16": 2, "BF16": 2}[entry.DType]
	if !found {
		return nil, fmt.Errorf("%s: %q is of type %s; F32, F16 and BF16 are known", t.path, name, entry.DType)
	}
	count := 1
	for _, n := range shape {
		count *= n
	}
	begin, end := entry.Offsets[0], entry.Offsets[1]
	if end < begin || end > uint64(len(t.data)) || end-begin != uint64(count*size) {
		return nil, fmt.Errorf("%s: %q lies outside of the file", t.path, name)
	}
	bytes, out := t.data[begin:end], make([]float32, count)
	for i := range out {
		switch entry.DType {
		case "F32":
			out[i] = math.Float32frombits(binary.LittleEndian.Uint32(bytes[4*i:]))
		case "F16":
			out[i] = HalfToFloat(binary.LittleEndian.Uint16(bytes[2*i:]))
		case "BF16":
			out[i] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(bytes[2*i:])) << 16)
		}
		if x := float64(out[i]); math.IsNaN(x) || math.IsInf(x, 0) {
			return nil, fmt.Errorf("%s: %q holds infinity or something that is no number", t.path, name)
		}
	}
	return out, nil
}

// HalfToFloat returns the value of a binary16.
func HalfToFloat(h uint16) float32 {
	sign, exponent, fraction := uint32(h&0x8000)<<16, uint32(h>>10&31), uint32(h&0x3FF)
	switch exponent {
	case 0:
		x := float32(fraction) / (1 << 24)
		return math.Float32frombits(sign | math.Float32bits(x))
	case 31:
		return math.Float32frombits(sign | 0x7F800000 | fraction<<13)
	}
	return math.Float32frombits(sign | (exponent+112)<<23 | fraction<<13)
}

// FloatToHalf rounds to the nearest binary16, ties to even.
func FloatToHalf(x float32) uint16 {
	bits := math.Float32bits(x)
	sign, bits := uint16(bits>>16&0x8000), bits&0x7FFFFFFF
	switch {
	case bits > 0x7F800000:
		return sign | 0x7E00
	case bits >= 0x477FF000: // 65520 and above
		return sign | 0x7C00
	case bits < 0x38800000: // below the least normal number: steps of 2^-24
		return sign | uint16(math.RoundToEven(float64(math.Float32frombits(bits))*(1<<24)))
	}
	bits += 0xFFF + bits>>13&1
	return sign | uint16((bits-(112<<23))>>13)
}
