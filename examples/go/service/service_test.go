package service

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"kvgear.org/example/model"
)

// A model small enough for the race detector, with arbitrary weights. It speaks printable ASCII: the rows of all other
// bytes are zero.
var small = sync.OnceValues(func() (*model.Model, error) {
	folder, err := os.MkdirTemp("", "model")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(folder)
	const hidden, wide, layers, qHeads, kvHeads, dim = 64, 96, 2, 4, 2, 32
	config := fmt.Sprintf(`{"model_type": "llama", "vocab_size": 256, "hidden_size": %d, "intermediate_size": %d, "num_hidden_layers": %d,
		"num_attention_heads": %d, "num_key_value_heads": %d, "head_dim": %d, "rms_norm_eps": 1e-6, "rope_theta": 10000,
		"max_position_embeddings": 4096, "tie_word_embeddings": true}`, hidden, wide, layers, qHeads, kvHeads, dim)
	if err := os.WriteFile(filepath.Join(folder, "config.json"), []byte(config), 0o644); err != nil {
		return nil, err
	}
	index, data, seed := map[string]any{}, []byte{}, uint32(1)
	add := func(name string, shape ...int) {
		count := 1
		for _, n := range shape {
			count *= n
		}
		begin := len(data)
		for i := 0; i < count; i++ {
			seed = seed*1664525 + 1013904223
			x := float32(int32(seed)) / (1 << 31) / 4
			if len(shape) == 1 {
				x++ // norms
			}
			if token := i / hidden; strings.Contains(name, "embed") && (token < 32 || token > 126) {
				x = 0
			}
			data = binary.LittleEndian.AppendUint32(data, math.Float32bits(x))
		}
		index[name] = map[string]any{"dtype": "F32", "shape": shape, "data_offsets": []int{begin, len(data)}}
	}
	add("model.embed_tokens.weight", 256, hidden)
	add("model.norm.weight", hidden)
	for i := 0; i < layers; i++ {
		prefix := fmt.Sprintf("model.layers.%d.", i)
		add(prefix+"input_layernorm.weight", hidden)
		add(prefix+"post_attention_layernorm.weight", hidden)
		add(prefix+"self_attn.q_proj.weight", qHeads*dim, hidden)
		add(prefix+"self_attn.k_proj.weight", kvHeads*dim, hidden)
		add(prefix+"self_attn.v_proj.weight", kvHeads*dim, hidden)
		add(prefix+"self_attn.o_proj.weight", hidden, qHeads*dim)
		add(prefix+"mlp.gate_proj.weight", wide, hidden)
		add(prefix+"mlp.up_proj.weight", wide, hidden)
		add(prefix+"mlp.down_proj.weight", hidden, wide)
	}
	header, err := json.Marshal(index)
	if err != nil {
		return nil, err
	}
	file := append(binary.LittleEndian.AppendUint64(nil, uint64(len(header))), header...)
	if err := os.WriteFile(filepath.Join(folder, "model.safetensors"), append(file, data...), 0o644); err != nil {
		return nil, err
	}
	return model.Load(folder)
})

func start(t *testing.T, options Options) (*Service, string) {
	t.Helper()
	m, err := small()
	if err != nil {
		t.Fatal(err)
	}
	if options.Recipe == "" {
		options.Recipe = "gear-4"
	}
	if options.MaxCaches == 0 {
		options.MaxCaches = 100
	}
	options.MaxTokens, options.MaxBody, options.Parallel = 64, 1<<16, 2
	s, err := New(m, options)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(s)
	t.Cleanup(func() {
		server.Close()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if bytes, err := s.Memory(); err == nil {
			t.Errorf("a closed service holds %d bytes", bytes)
		}
	})
	return s, server.URL
}

func call(t *testing.T, method, url, body string) (int, map[string]any) {
	t.Helper()
	r, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Error(err)
		return 0, nil
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Error(err)
	}
	var x map[string]any
	if len(text) > 0 {
		if err := json.Unmarshal(text, &x); err != nil {
			t.Errorf("%v in %q", err, text)
		}
	}
	return response.StatusCode, x
}

func textOf(x map[string]any) string {
	choices, _ := x["choices"].([]any)
	if len(choices) != 1 {
		return fmt.Sprintf("no answer: %v", x)
	}
	return choices[0].(map[string]any)["text"].(string)
}

func complete(t *testing.T, url, body string) (string, string) {
	t.Helper()
	status, x := call(t, "POST", url+"/v1/completions", body)
	if status != 200 {
		t.Errorf("%s gives %d: %v", body, status, x)
		return "", ""
	}
	cache, _ := x["cache"].(string)
	return textOf(x), cache
}

func TestCompletion(t *testing.T) {
	s, url := start(t, Options{})
	var want bytes.Buffer
	if err := s.Continue(&want, "The cache keeps", 30); err != nil {
		t.Fatal(err)
	}
	got, cache := complete(t, url, `{"prompt": "The cache keeps", "max_tokens": 30}`)
	if got != want.String() || cache != "" || len(got) != 30 {
		t.Errorf("%q, not %q", got, want.String())
	}
	other, _ := complete(t, url, `{"prompt": "The cache keeps", "max_tokens": 30, "recipe": "fp16"}`)
	if len(other) != 30 {
		t.Error(other)
	}

	response, err := http.Post(url+"/v1/completions", "application/json",
		strings.NewReader(`{"prompt": "The cache keeps", "max_tokens": 30, "stream": true}`))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var streamed string
	events, done := 0, false
	for lines := bufio.NewScanner(response.Body); lines.Scan(); {
		data, found := strings.CutPrefix(lines.Text(), "data: ")
		if !found {
			continue
		}
		if data == "[DONE]" {
			done = true
			continue
		}
		var x map[string]any
		if err := json.Unmarshal([]byte(data), &x); err != nil {
			t.Fatal(err)
		}
		streamed += textOf(x)
		events++
	}
	if streamed != want.String() || !done || events < 20 {
		t.Errorf("%q in %d events, not %q", streamed, events, want.String())
	}
}

func TestConversation(t *testing.T) {
	s, url := start(t, Options{Recipe: "gear-2"})
	before, err := s.Memory()
	if err != nil {
		t.Fatal(err)
	}
	text, id := complete(t, url, `{"prompt": "A conversation about ", "max_tokens": 8, "keep": true}`)
	if id == "" || len(text) != 8 {
		t.Fatal(id, text)
	}
	status, x := call(t, "POST", url+"/v1/caches/"+id+"/fork", "")
	fork, _ := x["id"].(string)
	if status != 201 || fork == "" || fork == id {
		t.Fatal(status, x)
	}
	next := func(id string) string {
		text, same := complete(t, url, `{"prompt": " memory and ", "max_tokens": 8, "cache": "`+id+`"}`)
		if same != id {
			t.Errorf("%q became %q", id, same)
		}
		return text
	}
	first := next(id)
	if got := next(fork); got != first {
		t.Errorf("a fork answers %q, not %q", got, first)
	}
	_, x = call(t, "GET", url+"/v1/caches", "")
	data := x["data"].([]any)
	if len(data) != 2 {
		t.Fatal(x)
	}
	for _, item := range data {
		item := item.(map[string]any)
		sizes := item["bytes"].(map[string]any)
		tokens := float64(len("A conversation about ") + 8 + len(" memory and ") + 8 - 1)
		if item["recipe"] != "gear-2" || item["tokens"] != tokens || sizes["total"].(float64) <= 0 || sizes["window"].(float64) <= 0 {
			t.Error(item)
		}
	}
	for _, id := range []string{id, fork} {
		if status, _ := call(t, "DELETE", url+"/v1/caches/"+id, ""); status != 204 {
			t.Error(status)
		}
		if status, _ := call(t, "DELETE", url+"/v1/caches/"+id, ""); status != 404 {
			t.Error(status)
		}
	}
	if after, err := s.Memory(); err != nil || after != before {
		t.Errorf("%d bytes are left, not %d", after, before)
	}
}

func TestBadRequests(t *testing.T) {
	_, url := start(t, Options{MaxCaches: 1, MemoryBudget: 300 << 10})
	_, id := complete(t, url, `{"prompt": "x", "max_tokens": 1, "keep": true}`)
	long := `{"recipe": "fp16", "prompt": "` + strings.Repeat("long ", 140) + `"}`
	for _, c := range []struct {
		method, path, body string
		status             int
		words              string
	}{
		{"POST", "/v1/completions", `{`, 400, "JSON"},
		{"POST", "/v1/completions", `{"max_tokens": 3}`, 400, "prompt"},
		{"POST", "/v1/completions", `{"prompt": ""}`, 400, "empty"},
		{"POST", "/v1/completions", `{"prompt": ["a"]}`, 400, "JSON"},
		{"POST", "/v1/completions", `{"prompt": "a", "max_tokens": 0}`, 400, "1 to 64"},
		{"POST", "/v1/completions", `{"prompt": "a", "max_tokens": 65}`, 400, "1 to 64"},
		{"POST", "/v1/completions", `{"prompt": "a", "temperature": 0.7}`, 400, "temperature"},
		{"POST", "/v1/completions", `{"prompt": "a", "recipe": "gear-99"}`, 400, "gear-2"},
		{"POST", "/v1/completions", `{"prompt": "a", "recipe": "int8,block=7"}`, 400, "block"},
		{"POST", "/v1/completions", `{"prompt": "a", "cache": "nope"}`, 404, "nope"},
		{"POST", "/v1/completions", `{"prompt": "a", "cache": "` + id + `", "recipe": "int8"}`, 400, "both"},
		{"POST", "/v1/completions", `{"prompt": "a", "keep": true}`, 429, "delete"},
		{"POST", "/v1/completions", `{"prompt": "` + strings.Repeat("a", 4090) + `"}`, 400, "4096 positions"},
		{"POST", "/v1/completions", `{"prompt": "` + strings.Repeat("a", 1<<16) + `"}`, 413, "65536"},
		{"POST", "/v1/completions", long, 429, "budget"},
		{"GET", "/v1/completions", ``, 405, "POST"},
		{"POST", "/v1/caches/" + id + "/fork", ``, 429, "delete"},
		{"POST", "/v1/caches/nope/fork", ``, 404, "nope"},
		{"PUT", "/v1/caches/" + id, ``, 405, "DELETE"},
		{"GET", "/v1/caches/" + id + "/fork", ``, 405, "POST"},
		{"GET", "/v2", ``, 404, "/v2"},
	} {
		status, x := call(t, c.method, url+c.path, c.body)
		e, _ := x["error"].(map[string]any)
		if status != c.status || !strings.Contains(fmt.Sprint(e["message"]), c.words) {
			t.Errorf("%s %s %.60s gives %d %v, not %d %q", c.method, c.path, c.body, status, x, c.status, c.words)
		}
	}
	if text, _ := complete(t, url, `{"prompt": "a", "max_tokens": 2, "cache": "`+id+`"}`); len(text) != 2 {
		t.Error("the conversation does not go on after the refusals")
	}
}

// A client that goes away leaves the conversation as it was.
func TestCancelledRequest(t *testing.T) {
	_, url := start(t, Options{})
	_, id := complete(t, url, `{"prompt": "It begins", "max_tokens": 4, "keep": true}`)
	_, x := call(t, "POST", url+"/v1/caches/"+id+"/fork", "")
	fork, _ := x["id"].(string)
	ctx, cancel := context.WithCancel(context.Background())
	r, _ := http.NewRequestWithContext(ctx, "POST", url+"/v1/completions",
		strings.NewReader(`{"prompt": " and goes", "max_tokens": 64, "stream": true, "cache": "`+id+`"}`))
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := response.Body.Read(make([]byte, 16)); err != nil {
		t.Error(err)
	}
	cancel()
	response.Body.Close()
	body := `{"prompt": " and ends", "max_tokens": 6, "cache": "%s"}`
	got, _ := complete(t, url, fmt.Sprintf(body, id))
	want, _ := complete(t, url, fmt.Sprintf(body, fork))
	if got != want {
		t.Errorf("%q, not %q", got, want)
	}
}

// Many conversations at once answer as one after the other.
func TestTogetherAsAlone(t *testing.T) {
	_, url := start(t, Options{})
	script := func(i int) string {
		first, id := complete(t, url, fmt.Sprintf(`{"prompt": "Number %d: ", "max_tokens": 4, "keep": true}`, i))
		second, _ := complete(t, url, `{"prompt": ", so ", "max_tokens": 4, "cache": "`+id+`"}`)
		if status, _ := call(t, "DELETE", url+"/v1/caches/"+id, ""); status != 204 {
			t.Error(status)
		}
		return first + second
	}
	const count = 12
	var alone, together [count]string
	for i := range alone {
		alone[i] = script(i)
	}
	var wg sync.WaitGroup
	for i := range together {
		wg.Add(1)
		go func(i int) {
			defer wg.Done()
			together[i] = script(i)
		}(i)
	}
	wg.Wait()
	if alone != together {
		t.Errorf("%q\n%q", alone, together)
	}
}
