package model

import (
	"context"
	"errors"
	"math"

	"kvgear.org/kvgear"
)

// Session is one text and its compressed cache. It is for one goroutine at a time.
type Session struct {
	Cache   *kvgear.Cache
	Pending []byte // tokens that the cache does not hold yet: the last one generated
	Length  int    // tokens in the cache
	model   *Model
}

// NewSession begins an empty text in an empty cache.
func (m *Model) NewSession(cache *kvgear.Cache) *Session { return &Session{Cache: cache, model: m} }

// Fork makes a second session with the same text.
func (s *Session) Fork() (*Session, error) {
	cache, err := s.Cache.Fork()
	if err != nil {
		return nil, err
	}
	return &Session{Cache: cache, Pending: s.Pending, Length: s.Length, model: s.model}, nil
}

// Generate appends the prompt to the text and then continues it, with the likeliest byte each time. emit is called for
// every byte and may end the text by an error. A session whose Generate failed must not be used further.
func (s *Session) Generate(ctx context.Context, prompt []byte, count int, emit func(byte) error) error {
	tokens := append(append([]byte{}, s.Pending...), prompt...)
	if len(tokens) == 0 {
		return errors.New("there is no prompt")
	}
	last := len(tokens) - 1
	if s.Length == 0 && last > 0 {
		if err := s.prefill(ctx, tokens[:last]); err != nil {
			return err
		}
	} else {
		for _, token := range tokens[:last] {
			if _, err := s.step(ctx, token, false); err != nil {
				return err
			}
		}
	}
	token := tokens[last]
	s.Pending = []byte{token}
	for i := 0; i < count; i++ {
		logits, err := s.step(ctx, token, true)
		if err != nil {
			return err
		}
		token = argmax(logits)
		s.Pending = []byte{token}
		if err := emit(token); err != nil {
			return err
		}
	}
	return nil
}

func argmax(x []float32) byte {
	best := 0
	for i := range x {
		if x[i] > x[best] {
			best = i
		}
	}
	return byte(best)
}

// step feeds one token, and returns the logits of the next if they are wanted.
func (s *Session) step(ctx context.Context, token byte, wanted bool) ([]float32, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m := s.model
	qWidth, kvWidth := m.QHeads*m.HeadDim, m.KVHeads*m.HeadDim
	x := append([]float32{}, m.embedding[int(token)*m.Hidden:][:m.Hidden]...)
	normed := make([]float32, m.Hidden)
	q, k, v := make([]float32, qWidth), make([]float32, kvWidth), make([]float32, kvWidth)
	attended := make([]float32, qWidth)
	wide, up := make([]float32, m.Wide), make([]float32, m.Wide)
	for i := range m.layers {
		l := &m.layers[i]
		m.norm(normed, x, l.attentionNorm)
		multiply(q, normed, l.q, 1, false)
		multiply(k, normed, l.k, 1, false)
		multiply(v, normed, l.v, 1, false)
		m.rotate(q, s.Length)
		m.rotate(k, s.Length)
		if err := s.Cache.Append(uint32(i), kvgear.F16(toHalf(k)), kvgear.F16(toHalf(v))); err != nil {
			return nil, err
		}
		if err := s.Cache.Attend(uint32(i), kvgear.F32(q), kvgear.F32(attended), kvgear.AttendOptions{}); err != nil {
			return nil, err
		}
		multiply(x, attended, l.output, 1, true)
		m.mlp(l, x, normed, wide, up, 1)
	}
	s.Length++
	if !wanted {
		return nil, nil
	}
	logits := make([]float32, m.Vocab)
	m.norm(normed, x, m.finalNorm)
	multiply(logits, normed, m.head, 1, false)
	return logits, nil
}

func (m *Model) mlp(l *layer, x, normed, wide, up []float32, rows int) {
	m.norm(normed, x, l.mlpNorm)
	multiply(wide, normed, l.gate, rows, false)
	multiply(up, normed, l.up, rows, false)
	gate(wide, up)
	multiply(x, wide, l.down, rows, true)
}

// prefill puts the first tokens of a text into the empty cache. Among themselves they attend to the exact fp16 keys and
// values; compression is for what comes later.
func (s *Session) prefill(ctx context.Context, tokens []byte) error {
	m, n := s.model, len(tokens)
	qWidth, kvWidth := m.QHeads*m.HeadDim, m.KVHeads*m.HeadDim
	x, normed := make([]float32, n*m.Hidden), make([]float32, n*m.Hidden)
	for t, token := range tokens {
		copy(x[t*m.Hidden:], m.embedding[int(token)*m.Hidden:][:m.Hidden])
	}
	q, k, v := make([]float32, n*qWidth), make([]float32, n*kvWidth), make([]float32, n*kvWidth)
	attended := make([]float32, n*qWidth)
	wide, up := make([]float32, n*m.Wide), make([]float32, n*m.Wide)
	for i := range m.layers {
		if err := ctx.Err(); err != nil {
			return err
		}
		l := &m.layers[i]
		m.norm(normed, x, l.attentionNorm)
		multiply(q, normed, l.q, n, false)
		multiply(k, normed, l.k, n, false)
		multiply(v, normed, l.v, n, false)
		for t := 0; t < n; t++ {
			m.rotate(q[t*qWidth:][:qWidth], t)
			m.rotate(k[t*kvWidth:][:kvWidth], t)
		}
		kHalf, vHalf := toHalf(k), toHalf(v)
		if err := s.Cache.Append(uint32(i), kvgear.F16(kHalf), kvgear.F16(vHalf)); err != nil {
			return err
		}
		if i == len(m.layers)-1 {
			break // nothing reads what the last layer computes of these
		}
		for j := range k {
			k[j], v[j] = HalfToFloat(kHalf[j]), HalfToFloat(vHalf[j])
		}
		m.attention(attended, q, k, v, n)
		multiply(x, attended, l.output, n, true)
		m.mlp(l, x, normed, wide, up, n)
	}
	s.Length += n
	return nil
}

// attention of n tokens among themselves, causal.
func (m *Model) attention(out, q, k, v []float32, n int) {
	d, group, kvWidth := m.HeadDim, m.QHeads/m.KVHeads, m.KVHeads*m.HeadDim
	scale := float32(1 / math.Sqrt(float64(d)))
	weights := make([]float32, n)
	clear(out)
	for i := 0; i < n; i++ {
		for h := 0; h < m.QHeads; h++ {
			at, kv := (i*m.QHeads+h)*d, h/group*d
			most := float32(math.Inf(-1))
			for t := 0; t <= i; t++ {
				weights[t] = dot(q[at:at+d], k[t*kvWidth+kv:][:d]) * scale
				most = max(most, weights[t])
			}
			var sum float32
			for t := 0; t <= i; t++ {
				weights[t] = float32(math.Exp(float64(weights[t] - most)))
				sum += weights[t]
			}
			row := out[at : at+d]
			for t := 0; t <= i; t++ {
				w := weights[t] / sum
				for j, value := range v[t*kvWidth+kv:][:d] {
					row[j] += w * value
				}
			}
		}
	}
}
