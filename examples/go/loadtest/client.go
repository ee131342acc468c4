package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

var (
	base   string
	client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 256}, Timeout: 5 * time.Minute}
	sent   atomic.Int64

	mu    sync.Mutex
	times []time.Duration
)

func request(method, path string, body any, out any) error {
	var text io.Reader
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			return err
		}
		text = bytes.NewReader(encoded)
	}
	r, err := http.NewRequest(method, base+path, text)
	if err != nil {
		return err
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	begin := time.Now()
	response, err := client.Do(r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	sent.Add(1)
	mu.Lock()
	times = append(times, time.Since(begin))
	mu.Unlock()
	if response.StatusCode >= 300 {
		return fmt.Errorf("%s %s gives %s: %s", method, path, response.Status, answer)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(answer, out)
}

type answer struct {
	Choices []struct {
		Text string `json:"text"`
	} `json:"choices"`
	Cache string `json:"cache"`
}

func complete(prompt, cache string) (answer, error) {
	body := map[string]any{"prompt": prompt, "max_tokens": 1}
	if cache == "" {
		body["keep"] = true
	} else {
		body["cache"] = cache
	}
	var a answer
	err := request("POST", "/v1/completions", body, &a)
	if err == nil && (len(a.Choices) != 1 || a.Cache == "") {
		err = errors.New("an answer without a text or a cache")
	}
	return a, err
}
