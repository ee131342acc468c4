package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// ask returns the status, the type and the JSON of an answer.
func ask(method, path, body string) (int, string, map[string]any, error) {
	r, err := http.NewRequest(method, base+path, strings.NewReader(body))
	if err != nil {
		return 0, "", nil, err
	}
	response, err := client.Do(r)
	if err != nil {
		return 0, "", nil, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, "", nil, err
	}
	var x map[string]any
	if len(text) > 0 {
		if err := json.Unmarshal(text, &x); err != nil {
			return 0, "", nil, fmt.Errorf("%s %s: %w in %q", method, path, err, text)
		}
	}
	return response.StatusCode, response.Header.Get("Content-Type"), x, nil
}

// stream returns the text of a streamed completion and its events.
func stream(body map[string]any) (string, []map[string]any, error) {
	asked := map[string]any{"stream": true}
	for key, value := range body {
		asked[key] = value
	}
	encoded, err := json.Marshal(asked)
	if err != nil {
		return "", nil, err
	}
	response, err := client.Post(base+"/v1/completions", "application/json", bytes.NewReader(encoded))
	if err != nil {
		return "", nil, err
	}
	defer response.Body.Close()
	kind := response.Header.Get("Content-Type")
	if response.StatusCode != 200 || !strings.HasPrefix(kind, "text/event-stream") || response.Header.Get("Cache-Control") != "no-store" {
		return "", nil, fmt.Errorf("a stream begins with %s, %s", response.Status, kind)
	}
	var text strings.Builder
	var events []map[string]any
	done := false
	lines := bufio.NewScanner(response.Body)
	for lines.Scan() {
		line := lines.Text()
		data, found := strings.CutPrefix(line, "data: ")
		switch {
		case line == "" && !done:
		case !found || done:
			if line != "" {
				return "", nil, fmt.Errorf("a line %q in a stream", line)
			}
		case data == "[DONE]":
			done = true
		default:
			var x map[string]any
			if err := json.Unmarshal([]byte(data), &x); err != nil {
				return "", nil, fmt.Errorf("%w in the event %q", err, data)
			}
			choices, _ := x["choices"].([]any)
			if len(choices) != 1 {
				return "", nil, fmt.Errorf("an event without a choice: %s", data)
			}
			part, _ := choices[0].(map[string]any)["text"].(string)
			text.WriteString(part)
			events = append(events, x)
		}
	}
	if !done {
		return "", nil, errors.Join(errors.New("a stream ends without [DONE]"), lines.Err())
	}
	return text.String(), events, nil
}

// refused is a request, the status that it must give, and words of the sentence.
type refused struct {
	method, path, body string
	status             int
	words              string
}

func checkRefusals(cases []refused) error {
	for _, c := range cases {
		status, kind, x, err := ask(c.method, c.path, c.body)
		if err != nil {
			return err
		}
		e, _ := x["error"].(map[string]any)
		message, _ := e["message"].(string)
		if status != c.status || !strings.Contains(message, c.words) || e["type"] != "invalid_request_error" || kind != "application/json" {
			return fmt.Errorf("%s %s %.70s gives %d, %s, %v; it should be %d with %q", c.method, c.path, c.body, status, kind, x, c.status, c.words)
		}
	}
	return nil
}

// has compares the keys of an object, so that no service has more or fewer than the others.
func has(x map[string]any, keys string) error {
	wanted := strings.Fields(keys)
	for _, key := range wanted {
		if _, found := x[key]; !found {
			return fmt.Errorf("%v has no %q", x, key)
		}
	}
	if len(x) != len(wanted) {
		return fmt.Errorf("%v has more than %s", x, keys)
	}
	return nil
}

// checkSurface goes through everything a client can do alone. The service must have the limits that are its defaults.
func checkSurface() error {
	const path = "/v1/completions"
	status, kind, x, err := ask("POST", path, `{"prompt": "The cache", "max_tokens": 9, "recipe": "gear-2"}`)
	if err != nil {
		return err
	}
	if status != 200 || kind != "application/json" || x["object"] != "text_completion" || x["recipe"] != "gear-2" {
		return fmt.Errorf("a completion gives %d, %s, %v", status, kind, x)
	}
	choice, _ := x["choices"].([]any)[0].(map[string]any)
	usage, _ := x["usage"].(map[string]any)
	if err := errors.Join(has(x, "id object created model choices usage recipe"), has(choice, "index text finish_reason"),
		has(usage, "prompt_tokens completion_tokens total_tokens")); err != nil {
		return err
	}
	if usage["prompt_tokens"] != 9.0 || usage["completion_tokens"] != 9.0 || usage["total_tokens"] != 18.0 || choice["finish_reason"] != "length" {
		return fmt.Errorf("wrong counts in %v", x)
	}
	text, events, err := stream(map[string]any{"prompt": "The cache", "max_tokens": 9, "recipe": "gear-2", "keep": true})
	if err != nil {
		return err
	}
	last := events[len(events)-1]
	if text != choice["text"] || len(events) < 5 || has(last, "id object created model choices usage cache recipe") != nil {
		return fmt.Errorf("streamed %q, at once %q, last event %v", text, choice["text"], last)
	}
	id, _ := last["cache"].(string)
	status, kind, x, err = ask("POST", "/v1/caches/"+id+"/fork", "")
	fork, _ := x["id"].(string)
	if err != nil || status != 201 || kind != "application/json" || fork == "" || fork == id {
		return fmt.Errorf("a fork gives %d, %s, %v, %v", status, kind, x, err)
	}

	if err := checkRefusals([]refused{
		{"POST", path, `{`, 400, "JSON"},
		{"POST", path, `[]`, 400, "JSON"},
		{"POST", path, ``, 400, "JSON"},
		{"POST", path, `{"max_tokens": 3}`, 400, "prompt"},
		{"POST", path, `{"prompt": null}`, 400, "prompt"},
		{"POST", path, `{"prompt": ""}`, 400, "empty"},
		{"POST", path, `{"prompt": ["a"]}`, 400, "JSON"},
		{"POST", path, `{"prompt": "a", "stream": "yes"}`, 400, "JSON"},
		{"POST", path, `{"prompt": "a", "max_tokens": 1.5}`, 400, "JSON"},
		{"POST", path, `{"prompt": "a", "max_tokens": 0}`, 400, "1 to 256"},
		{"POST", path, `{"prompt": "a", "max_tokens": -1}`, 400, "1 to 256"},
		{"POST", path, `{"prompt": "a", "max_tokens": 257}`, 400, "1 to 256"},
		{"POST", path, `{"prompt": "a", "temperature": 0.7}`, 400, "temperature"},
		{"POST", path, `{"prompt": "a", "recipe": "gear-99"}`, 400, "gear-2"},
		{"POST", path, `{"prompt": "a", "recipe": "int8,block=7"}`, 400, "block"},
		{"POST", path, `{"prompt": "a", "cache": "nope"}`, 404, "nope"},
		{"POST", path, `{"prompt": "a", "cache": "` + id + `", "recipe": "int8"}`, 400, "both"},
		{"POST", path, `{"prompt": "` + strings.Repeat("a", 4090) + `"}`, 400, "4096 positions"},
		{"POST", path, `{"prompt": "` + strings.Repeat("a", 1<<20) + `"}`, 413, "1048576"},
		{"GET", path, ``, 405, "POST"},
		{"POST", "/v1/caches", ``, 405, "GET"},
		{"POST", "/v1/caches/nope/fork", ``, 404, "nope"},
		{"DELETE", "/v1/caches/nope", ``, 404, "nope"},
		{"PUT", "/v1/caches/" + id, ``, 405, "DELETE"},
		{"GET", "/v1/caches/" + id + "/fork", ``, 405, "POST"},
		{"GET", "/v1/caches/" + id + "/spoon", ``, 404, "/spoon"},
		{"GET", "/v2", ``, 404, "/v2"},
	}); err != nil {
		return err
	}
	if status, _, x, err := ask("GET", "/healthz", ""); err != nil || status != 200 || x["status"] != "ok" {
		return fmt.Errorf("/healthz gives %d, %v, %v", status, x, err)
	}
	if err := cancelled(id); err != nil {
		return err
	}

	// Neither the refusals nor the client that went away have changed a conversation.
	next := `{"prompt": " and ends", "max_tokens": 6, "cache": "%s"}`
	_, _, one, err := ask("POST", path, fmt.Sprintf(next, id))
	if err != nil {
		return err
	}
	_, _, other, err := ask("POST", path, fmt.Sprintf(next, fork))
	if err != nil || fmt.Sprint(one["choices"]) != fmt.Sprint(other["choices"]) || one["cache"] != id || one["recipe"] != "gear-2" {
		return fmt.Errorf("a conversation says %v, its fork %v, %v", one, other, err)
	}
	_, _, x, err = ask("GET", "/v1/caches", "")
	if err != nil {
		return err
	}
	kept, _ := x["data"].([]any)
	total, _ := x["bytes"].(float64)
	if len(kept) != 2 || x["object"] != "list" || total <= 0 {
		return fmt.Errorf("the list of conversations is %v", x)
	}
	for _, item := range kept {
		item, _ := item.(map[string]any)
		sizes, _ := item["bytes"].(map[string]any)
		if err := errors.Join(has(item, "id recipe tokens bits_per_element bytes"),
			has(sizes, "total codes scales low_rank sparse window bookkeeping shared fp16")); err != nil {
			return err
		}
		if item["recipe"] != "gear-2" || item["tokens"] != float64(9+9+9+6-1) || sizes["total"].(float64) <= 0 || sizes["window"].(float64) <= 0 {
			return fmt.Errorf("the list says %v", item)
		}
	}
	for _, name := range []string{id, fork} {
		for _, want := range []int{204, 404} {
			if status, _, x, err := ask("DELETE", "/v1/caches/"+name, ""); err != nil || status != want {
				return fmt.Errorf("DELETE gives %d, not %d: %v, %v", status, want, x, err)
			}
		}
	}
	if _, _, x, err := ask("GET", "/v1/caches", ""); err != nil || len(x["data"].([]any)) != 0 || x["bytes"] != 0.0 {
		return fmt.Errorf("after the last conversation the list is %v, %v", x, err)
	}
	fmt.Println("surface: answers, events, refusals, forks and the list are as promised")
	return nil
}

// cancelled begins a streamed answer and goes away.
func cancelled(id string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, "POST", base+"/v1/completions",
		strings.NewReader(`{"prompt": " and goes", "max_tokens": 256, "stream": true, "cache": "`+id+`"}`))
	if err != nil {
		return err
	}
	response, err := client.Do(r)
	if err != nil {
		return err
	}
	_, err = io.ReadFull(response.Body, make([]byte, 16))
	cancel()
	response.Body.Close()
	return err
}

// checkLimits is for a service that was started with -max-caches 1, -max-tokens 64 and -memory-budget 4000000.
func checkLimits() error {
	const path = "/v1/completions"
	_, _, x, err := ask("POST", path, `{"prompt": "x", "max_tokens": 1, "keep": true}`)
	if err != nil {
		return err
	}
	id, _ := x["cache"].(string)
	long := strings.Repeat("long ", 300)
	if err := checkRefusals([]refused{
		{"POST", path, `{"prompt": "a", "max_tokens": 65}`, 400, "1 to 64"},
		{"POST", path, `{"prompt": "a", "keep": true}`, 429, "delete"},
		{"POST", "/v1/caches/" + id + "/fork", ``, 429, "delete"},
		{"POST", path, `{"recipe": "fp16", "prompt": "` + long + `"}`, 429, "budget"},
		{"POST", path, `{"recipe": "fp16", "stream": true, "prompt": "` + long + `"}`, 429, "budget"},
	}); err != nil {
		return err
	}
	status, _, x, err := ask("POST", path, `{"prompt": "a", "max_tokens": 2, "cache": "`+id+`"}`)
	if err != nil || status != 200 {
		return fmt.Errorf("the conversation does not go on after the refusals: %d, %v, %v", status, x, err)
	}
	fmt.Println("limits: refused with a sentence")
	return nil
}
