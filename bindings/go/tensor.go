package kvgear

import "unsafe"

// Tensor is a slice with its element type. It refers to the slice's own memory.
type Tensor struct {
	bytes []byte
	dtype DType
}

// F32 is a tensor of float32.
func F32(x []float32) Tensor { return Tensor{bytesOf(x), DTypeF32} }

// F16 is a tensor of IEEE binary16, given by its bits.
func F16(x []uint16) Tensor { return Tensor{bytesOf(x), DTypeF16} }

// BF16 is a tensor of bfloat16, given by its bits.
func BF16(x []uint16) Tensor { return Tensor{bytesOf(x), DTypeBF16} }

// Bytes is a tensor of dtype in the machine's byte order, as it lies in a file or a mapping.
func Bytes(dtype DType, x []byte) Tensor { return Tensor{x, dtype} }

// Memory is a tensor of memory that is not Go's, such as that of a CUDA device. It must stay until the calls that it goes to
// are over, and the work that they gave to a stream.
func Memory(dtype DType, address unsafe.Pointer, elements int) Tensor {
	size := 2
	if dtype == DTypeF32 {
		size = 4
	}
	return Tensor{unsafe.Slice((*byte)(address), elements*size), dtype}
}

// DType returns the element type.
func (t Tensor) DType() DType { return t.dtype }

// Len returns the number of elements.
func (t Tensor) Len() int {
	if t.dtype == DTypeF32 {
		return len(t.bytes) / 4
	}
	return len(t.bytes) / 2
}

func bytesOf[T float32 | uint16](x []T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(x))), len(x)*int(unsafe.Sizeof(*new(T))))
}
