// Package service is the HTTP side: completions in the usual shape, over conversations whose compressed caches live on
// between requests.
package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"kvgear.org/example/model"
	"kvgear.org/kvgear"
)

// Options bound what a client may use.
type Options struct {
	Recipe       string        // of conversations that name none
	MaxTokens    int           // most tokens of one answer
	MaxBody      int64         // most bytes of a request
	MaxCaches    int           // most conversations that are kept
	MemoryBudget uint64        // most bytes of all caches; 0 = no limit
	Parallel     int           // most requests that compute at the same time
	Patience     time.Duration // for the body of a request; 0 = for ever
}

// Service answers requests. It is an http.Handler.
type Service struct {
	options Options
	model   *model.Model
	runtime *kvgear.Runtime
	store   store
	slots   chan struct{}
}

// New makes a service; Close ends it.
func New(m *model.Model, options Options) (*Service, error) {
	runtime, err := kvgear.NewRuntime(kvgear.Options{MemoryBudget: options.MemoryBudget})
	if err != nil {
		return nil, err
	}
	s := &Service{options: options, model: m, runtime: runtime, slots: make(chan struct{}, options.Parallel)}
	s.store.limit = options.MaxCaches
	s.store.conversations = map[string]*conversation{}
	s.store.plans = map[string]*kvgear.Plan{}
	if _, err := s.store.plan(m.Shape(), options.Recipe); err != nil {
		return nil, errors.Join(err, runtime.Close())
	}
	return s, nil
}

// Close ends all conversations. Requests must have ended.
func (s *Service) Close() error {
	s.store.close()
	return s.runtime.Close()
}

// Memory returns the bytes that all caches hold.
func (s *Service) Memory() (uint64, error) { return s.runtime.Memory() }

// refusal is an error with the HTTP status that says whose fault it is.
type refusal struct {
	status int
	error
}

func refuse(status int, format string, args ...any) error {
	return &refusal{status, fmt.Errorf(format, args...)}
}

// ServeHTTP sends a request to what answers it.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var err error
	id, action, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v1/caches/"), "/")
	inCaches := strings.HasPrefix(r.URL.Path, "/v1/caches/") && id != ""
	switch {
	case r.URL.Path == "/v1/completions":
		if err = only(r, http.MethodPost); err == nil {
			err = s.complete(w, r)
		}
	case r.URL.Path == "/v1/caches":
		if err = only(r, http.MethodGet); err == nil {
			err = s.list(w)
		}
	case inCaches && action == "":
		if err = only(r, http.MethodDelete); err == nil {
			if err = s.store.remove(id); err == nil {
				w.WriteHeader(http.StatusNoContent)
			}
		}
	case inCaches && action == "fork":
		if err = only(r, http.MethodPost); err == nil {
			err = s.fork(w, id)
		}
	case r.URL.Path == "/healthz":
		reply(w, map[string]string{"status": "ok"})
	default:
		err = refuse(http.StatusNotFound, "there is nothing at %s; see the README", r.URL.Path)
	}
	if err != nil {
		writeError(w, err)
	}
}

func only(r *http.Request, method string) error {
	if r.Method != method {
		return refuse(http.StatusMethodNotAllowed, "%s takes %s only", r.URL.Path, method)
	}
	return nil
}

func reply(w http.ResponseWriter, x any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(x)
}

// errorBody has the shape that clients of completion services know.
func errorBody(err error) (int, any) {
	status, kind := http.StatusInternalServerError, "server_error"
	var r *refusal
	switch {
	case errors.As(err, &r):
		status = r.status
	case errors.Is(err, kvgear.ErrLimit), errors.Is(err, kvgear.ErrNomem):
		status = http.StatusTooManyRequests
	}
	if status < 500 {
		kind = "invalid_request_error"
	}
	return status, map[string]any{"error": map[string]string{"message": err.Error(), "type": kind}}
}

func writeError(w http.ResponseWriter, err error) {
	status, body := errorBody(err)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

// request is the body of POST /v1/completions.
type request struct {
	Model       string  `json:"model"`
	Prompt      *string `json:"prompt"`
	MaxTokens   *int    `json:"max_tokens"`
	Temperature float64 `json:"temperature"`
	Stream      bool    `json:"stream"`
	Recipe      string  `json:"recipe"` // of a new conversation
	Cache       string  `json:"cache"`  // the conversation to continue
	Keep        bool    `json:"keep"`   // keep a new conversation for later requests
}

func (s *Service) read(w http.ResponseWriter, r *http.Request) (*request, error) {
	var q request
	deadline(w, s.options.Patience)
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, s.options.MaxBody)).Decode(&q); err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			return nil, refuse(http.StatusRequestEntityTooLarge, "the request is longer than %d bytes", tooLarge.Limit)
		}
		if tooSlow(err) { // and the deadline stays, so that the server does not wait for the rest either
			w.Header().Set("Connection", "close")
			return nil, refuse(http.StatusRequestTimeout, "the request did not arrive within %v; send it faster", s.options.Patience)
		}
		return nil, refuse(http.StatusBadRequest, "the request is no JSON of a completion: %v", err)
	}
	deadline(w, 0)
	switch {
	case q.Prompt == nil:
		return nil, refuse(http.StatusBadRequest, "the request has no prompt")
	case *q.Prompt == "":
		return nil, refuse(http.StatusBadRequest, "the prompt is empty")
	case q.Temperature != 0:
		return nil, refuse(http.StatusBadRequest, "temperature is %g; this service takes the likeliest token, which is temperature 0", q.Temperature)
	case q.Cache != "" && q.Recipe != "":
		return nil, refuse(http.StatusBadRequest, "a conversation keeps its recipe; give cache or recipe, not both")
	}
	if q.MaxTokens == nil {
		n := min(16, s.options.MaxTokens)
		q.MaxTokens = &n
	}
	if *q.MaxTokens < 1 || *q.MaxTokens > s.options.MaxTokens {
		return nil, refuse(http.StatusBadRequest, "max_tokens is %d; it may be 1 to %d", *q.MaxTokens, s.options.MaxTokens)
	}
	return &q, nil
}

type choice struct {
	Index        int     `json:"index"`
	Text         string  `json:"text"`
	FinishReason *string `json:"finish_reason"`
}

type completion struct {
	ID      string         `json:"id"`
	Object  string         `json:"object"`
	Created int64          `json:"created"`
	Model   string         `json:"model"`
	Choices []choice       `json:"choices"`
	Usage   map[string]int `json:"usage,omitempty"`
	Cache   string         `json:"cache,omitempty"` // by which to continue
	Recipe  string         `json:"recipe"`
}

func (s *Service) complete(w http.ResponseWriter, r *http.Request) error {
	q, err := s.read(w, r)
	if err != nil {
		return err
	}
	if q.Keep && q.Cache == "" { // before the work, though only keep() below decides
		s.store.mu.Lock()
		err = s.store.room()
		s.store.mu.Unlock()
		if err != nil {
			return err
		}
	}
	c, err := s.conversation(q)
	if err != nil {
		return err
	}
	defer c.release()

	// The work is done on a fork, which takes the conversation's place when all went well: a request that fails or whose
	// client goes away leaves no trace.
	work, err := c.session.Fork()
	if err != nil {
		return err
	}
	defer func() { work.Cache.Close() }()
	if total := work.Length + len(work.Pending) + len(*q.Prompt) + *q.MaxTokens; total > s.model.Positions {
		return refuse(http.StatusBadRequest, "conversation, prompt and max_tokens make %d tokens; the model has %d positions",
			total, s.model.Positions)
	}
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-r.Context().Done():
		return r.Context().Err()
	}

	answer := completion{ID: "cmpl-" + newID(), Object: "text_completion", Created: time.Now().Unix(), Model: "tiny", Recipe: c.recipe}
	if q.Keep || q.Cache != "" {
		answer.Cache = c.id
	}
	out := &writer{w: w, answer: &answer, stream: q.Stream}
	err = work.Generate(r.Context(), []byte(*q.Prompt), *q.MaxTokens, out.put)
	if err == nil && answer.Cache != "" {
		err = s.store.keep(c, work)
		if err == nil {
			work = c.replaced // what the deferred Close is to end
		}
	}
	if err != nil {
		return out.fail(err)
	}
	answer.Usage = map[string]int{"prompt_tokens": len(*q.Prompt), "completion_tokens": *q.MaxTokens,
		"total_tokens": len(*q.Prompt) + *q.MaxTokens}
	return out.finish()
}

// conversation returns the one to continue, or a new one, for this request alone.
func (s *Service) conversation(q *request) (*conversation, error) {
	if q.Cache != "" {
		return s.store.take(q.Cache)
	}
	recipe := q.Recipe
	if recipe == "" {
		recipe = s.options.Recipe
	}
	plan, err := s.store.plan(s.model.Shape(), recipe)
	if err != nil {
		if errors.Is(err, kvgear.ErrInvalid) || errors.Is(err, kvgear.ErrUnsupported) {
			return nil, &refusal{http.StatusBadRequest, err}
		}
		return nil, err
	}
	cache, err := s.runtime.NewCache(plan)
	if err != nil {
		return nil, err
	}
	return newConversation(recipe, s.model.NewSession(cache)), nil
}

func (s *Service) fork(w http.ResponseWriter, id string) error {
	c, err := s.store.take(id)
	if err != nil {
		return err
	}
	defer c.release()
	session, err := c.session.Fork()
	if err != nil {
		return err
	}
	fork := newConversation(c.recipe, session)
	if err := s.store.add(fork); err != nil {
		return errors.Join(err, session.Cache.Close())
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	_ = json.NewEncoder(w).Encode(map[string]string{"id": fork.id})
	return nil
}

func (s *Service) list(w http.ResponseWriter) error {
	memory, err := s.runtime.Memory()
	if err != nil {
		return err
	}
	data := []any{}
	for _, c := range s.store.all() {
		stats, err := c.stats()
		if errors.Is(err, kvgear.ErrState) {
			continue // deleted in between
		}
		if err != nil {
			return err
		}
		data = append(data, map[string]any{"id": c.id, "recipe": c.recipe, "tokens": stats.Tokens / uint64(s.model.Layers),
			"bits_per_element": stats.BitsPerElement,
			"bytes": map[string]uint64{"total": stats.BytesTotal, "codes": stats.BytesCodes, "scales": stats.BytesScales,
				"low_rank": stats.BytesLowRank, "sparse": stats.BytesSparse, "window": stats.BytesWindowAllocated,
				"bookkeeping": stats.BytesBookkeeping, "shared": stats.BytesShared, "fp16": stats.BytesFP16}})
	}
	reply(w, map[string]any{"object": "list", "data": data, "bytes": memory})
	return nil
}

// writer sends the bytes of an answer, at once or as events. Bytes that are no UTF-8 become U+FFFD, as JSON asks.
type writer struct {
	w      http.ResponseWriter
	answer *completion
	stream bool
	begun  bool
	bytes  []byte // not sent yet
}

func (o *writer) put(token byte) error {
	o.bytes = append(o.bytes, token)
	if !o.stream || !utf8.FullRune(o.bytes) {
		return nil
	}
	return o.event(nil)
}

func (o *writer) event(reason *string) error {
	if !o.begun {
		o.w.Header().Set("Content-Type", "text/event-stream")
		o.w.Header().Set("Cache-Control", "no-store")
		o.begun = true
	}
	o.answer.Choices = []choice{{Text: strings.ToValidUTF8(string(o.bytes), "\uFFFD"), FinishReason: reason}}
	o.bytes = o.bytes[:0]
	return o.send(o.answer)
}

func (o *writer) send(x any) error {
	line, err := json.Marshal(x)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(o.w, "data: %s\n\n", line); err != nil {
		return err
	}
	if f, ok := o.w.(http.Flusher); ok {
		f.Flush()
	}
	return nil
}

func (o *writer) finish() error {
	reason := "length"
	if o.stream {
		if err := o.event(&reason); err != nil {
			return nil // the client is gone, nobody is left to tell
		}
		_, _ = fmt.Fprint(o.w, "data: [DONE]\n\n")
		return nil
	}
	o.answer.Choices = []choice{{Text: strings.ToValidUTF8(string(o.bytes), "\uFFFD"), FinishReason: &reason}}
	reply(o.w, o.answer)
	return nil
}

// fail tells the client, in the stream if that has begun.
func (o *writer) fail(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil // the client is gone
	}
	if !o.begun {
		return err
	}
	_, body := errorBody(err)
	_ = o.send(body)
	return nil
}

// Continue writes the continuation of a prompt, without HTTP.
func (s *Service) Continue(w io.Writer, prompt string, count int) error {
	c, err := s.conversation(&request{})
	if err != nil {
		return err
	}
	defer c.release()
	return c.session.Generate(context.Background(), []byte(prompt), count, func(token byte) error {
		_, err := w.Write([]byte{token})
		return err
	})
}
