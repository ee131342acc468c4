package model

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"

	"kvgear.org/kvgear"
)

// Config is what config.json says, by Hugging Face's names.
type Config struct {
	Type      string  `json:"model_type"`
	Vocab     int     `json:"vocab_size"`
	Hidden    int     `json:"hidden_size"`
	Wide      int     `json:"intermediate_size"`
	Layers    int     `json:"num_hidden_layers"`
	QHeads    int     `json:"num_attention_heads"`
	KVHeads   int     `json:"num_key_value_heads"`
	HeadDim   int     `json:"head_dim"`
	Epsilon   float32 `json:"rms_norm_eps"`
	Theta     float64 `json:"rope_theta"`
	Positions int     `json:"max_position_embeddings"`
	Tied      bool    `json:"tie_word_embeddings"`
	Bias      bool    `json:"attention_bias"`
	Sliding   bool    `json:"use_sliding_window"`
}

// Model is the weights.
type Model struct {
	Config
	embedding, head, finalNorm []float32
	layers                     []layer
	cosines, sines             []float32 // [positions, head_dim / 2]
}

// layer: matrices are [outputs, inputs].
type layer struct {
	attentionNorm, mlpNorm          []float32
	q, k, v, output, gate, up, down []float32
}

// Load reads config.json and model.safetensors of a folder.
func Load(folder string) (*Model, error) {
	text, err := os.ReadFile(filepath.Join(folder, "config.json"))
	if err != nil {
		return nil, err
	}
	m := &Model{}
	if err := json.Unmarshal(text, &m.Config); err != nil {
		return nil, fmt.Errorf("%s/config.json: %w", folder, err)
	}
	c := &m.Config
	if c.Type != "llama" || c.Bias || c.Sliding || c.Vocab != 256 {
		return nil, fmt.Errorf("%s is not a Llama model over bytes, without biases and sliding window", folder)
	}
	for _, n := range []int{c.Hidden, c.Wide, c.Layers, c.QHeads, c.KVHeads, c.HeadDim, c.Positions} {
		if n <= 0 || n > 1<<20 {
			return nil, fmt.Errorf("%s/config.json holds a size of %d", folder, n)
		}
	}
	t, err := openTensors(filepath.Join(folder, "model.safetensors"))
	if err != nil {
		return nil, err
	}
	get := func(to *[]float32, name string, shape ...int) {
		if err == nil {
			*to, err = t.get(name, shape...)
		}
	}
	get(&m.embedding, "model.embed_tokens.weight", c.Vocab, c.Hidden)
	get(&m.finalNorm, "model.norm.weight", c.Hidden)
	m.head = m.embedding
	if !c.Tied {
		get(&m.head, "lm_head.weight", c.Vocab, c.Hidden)
	}
	m.layers = make([]layer, c.Layers)
	qWidth, kvWidth := c.QHeads*c.HeadDim, c.KVHeads*c.HeadDim
	for i := range m.layers {
		l, prefix := &m.layers[i], fmt.Sprintf("model.layers.%d.", i)
		get(&l.attentionNorm, prefix+"input_layernorm.weight", c.Hidden)
		get(&l.mlpNorm, prefix+"post_attention_layernorm.weight", c.Hidden)
		get(&l.q, prefix+"self_attn.q_proj.weight", qWidth, c.Hidden)
		get(&l.k, prefix+"self_attn.k_proj.weight", kvWidth, c.Hidden)
		get(&l.v, prefix+"self_attn.v_proj.weight", kvWidth, c.Hidden)
		get(&l.output, prefix+"self_attn.o_proj.weight", c.Hidden, qWidth)
		get(&l.gate, prefix+"mlp.gate_proj.weight", c.Wide, c.Hidden)
		get(&l.up, prefix+"mlp.up_proj.weight", c.Wide, c.Hidden)
		get(&l.down, prefix+"mlp.down_proj.weight", c.Hidden, c.Wide)
	}
	if err != nil {
		return nil, err
	}
	half := c.HeadDim / 2
	m.cosines, m.sines = make([]float32, c.Positions*half), make([]float32, c.Positions*half)
	for position := 0; position < c.Positions; position++ {
		for i := 0; i < half; i++ {
			angle := float64(position) * math.Pow(c.Theta, -2*float64(i)/float64(c.HeadDim))
			m.cosines[position*half+i] = float32(math.Cos(angle))
			m.sines[position*half+i] = float32(math.Sin(angle))
		}
	}
	return m, nil
}

// Shape is what a kvgear plan for the model needs.
func (m *Model) Shape() kvgear.Shape {
	return kvgear.Shape{Layers: uint32(m.Layers), QHeads: uint32(m.QHeads), KVHeads: uint32(m.KVHeads), HeadDim: uint32(m.HeadDim)}
}

// multiply computes y[r, o] = x[r] . w[o], or adds it.
func multiply(y, x, w []float32, rows int, add bool) {
	inputs, outputs := len(x)/rows, len(y)/rows
	for o := 0; o < outputs; o++ {
		wo := w[o*inputs:][:inputs]
		for r := 0; r < rows; r++ {
			sum := dot(wo, x[r*inputs:][:inputs])
			if add {
				sum += y[r*outputs+o]
			}
			y[r*outputs+o] = sum
		}
	}
}

func dot(a, b []float32) float32 {
	var s0, s1, s2, s3 float32
	b = b[:len(a)]
	i := 0
	for ; i+4 <= len(a); i += 4 {
		x, y := a[i:i+4:i+4], b[i:i+4:i+4]
		s0 += x[0] * y[0]
		s1 += x[1] * y[1]
		s2 += x[2] * y[2]
		s3 += x[3] * y[3]
	}
	for ; i < len(a); i++ {
		s0 += a[i] * b[i]
	}
	return s0 + s1 + (s2 + s3)
}

func (m *Model) norm(out, x, weight []float32) {
	n := len(weight)
	for r := 0; r+n <= len(x); r += n {
		row := x[r : r+n]
		factor := 1 / float32(math.Sqrt(float64(dot(row, row)/float32(n)+m.Epsilon)))
		for i, value := range row {
			out[r+i] = value * factor * weight[i]
		}
	}
}

func gate(out, up []float32) {
	for i, g := range out {
		out[i] = g / (1 + float32(math.Exp(float64(-g)))) * up[i]
	}
}

// rotate turns the heads of one token; pairs are i and i + head_dim / 2.
func (m *Model) rotate(x []float32, position int) {
	half := m.HeadDim / 2
	cosines, sines := m.cosines[position*half:][:half], m.sines[position*half:][:half]
	for ; len(x) > 0; x = x[m.HeadDim:] {
		for i := 0; i < half; i++ {
			a, b := x[i], x[i+half]
			x[i], x[i+half] = a*cosines[i]-b*sines[i], b*cosines[i]+a*sines[i]
		}
	}
}

// toHalf rounds x to binary16, which is what a cache keeps.
func toHalf(x []float32) []uint16 {
	h := make([]uint16, len(x))
	for i, value := range x {
		h[i] = FloatToHalf(value)
	}
	return h
}
