package kvgear

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// What the header alone decides; that latents answer right is tested on the C interface.
func TestPlanFiles(t *testing.T) {
	header := `{"__metadata__":{"kvgear.plan":"1","layers":"2","q_heads":"4","kv_heads":"2","head_dim":"32","recipes":"gear-4","fingerprint":"mine"}}`
	path := filepath.Join(t.TempDir(), "plan.safetensors")
	bytes := append(binary.LittleEndian.AppendUint64(nil, uint64(len(header))), header...)
	if err := os.WriteFile(path, bytes, 0o600); err != nil {
		t.Fatal(err)
	}
	shape := Shape{Layers: 2, QHeads: 4, KVHeads: 2, HeadDim: 32}
	plan, err := LoadPlan(path, &shape, "", []byte("mine"))
	if err != nil {
		t.Fatal(err)
	}
	defer plan.Close()
	if rank, heads, err := plan.Latent(1, SideK); rank != 0 || heads != 0 || err != nil {
		t.Errorf("Latent: %d, %d, %v", rank, heads, err)
	}
	if _, _, err := plan.Latent(2, SideK); !errors.Is(err, ErrInvalid) {
		t.Errorf("layer 2: %v", err)
	}
	if _, err := LoadPlan(path, nil, "", []byte("yours")); !errors.Is(err, ErrInvalid) {
		t.Errorf("another fingerprint: %v", err)
	}
	if _, err := LoadPlan(path, nil, "palu", nil); !errors.Is(err, ErrInvalid) {
		t.Errorf("without factors: %v", err)
	}
	if _, err := LoadPlan(path+"x", nil, "", nil); !errors.Is(err, ErrIO) {
		t.Errorf("no file: %v", err)
	}
}
