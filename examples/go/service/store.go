package service

import (
	"crypto/rand"
	"encoding/hex"
	"net/http"
	"sort"
	"sync"

	"kvgear.org/example/model"
	"kvgear.org/kvgear"
)

// conversation is a text and its cache. One request has it at a time; the others wait.
type conversation struct {
	id      string
	recipe  string
	turn    chan struct{} // full while a request has it
	store   *store        // nil: of one request alone
	mu      sync.Mutex    // guards session, which stats reads beside a request
	session *model.Session
	gone    bool

	replaced *model.Session // by the request that has it
}

func newConversation(recipe string, session *model.Session) *conversation {
	c := &conversation{id: newID(), recipe: recipe, turn: make(chan struct{}, 1), session: session}
	c.turn <- struct{}{}
	return c
}

func newID() string {
	var b [12]byte
	if _, err := rand.Read(b[:]); err != nil {
		panic(err) // the system has no randomness: nothing can go on
	}
	return hex.EncodeToString(b[:])
}

// release ends a request's turn, and the conversation if nobody keeps it.
func (c *conversation) release() {
	if c.store == nil {
		c.session.Cache.Close()
	}
	<-c.turn
}

func (c *conversation) stats() (kvgear.Stats, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.session.Cache.Stats(kvgear.AllLayers, kvgear.SideBoth)
}

// store is the conversations that are kept, and the plans of all recipes that were asked for.
type store struct {
	mu            sync.Mutex
	limit         int
	conversations map[string]*conversation
	plans         map[string]*kvgear.Plan
}

// plan returns the plan of a recipe text; the first 64 are kept.
func (s *store) plan(shape kvgear.Shape, recipe string) (*kvgear.Plan, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if plan := s.plans[recipe]; plan != nil {
		return plan, nil
	}
	plan, err := kvgear.NewPlan(shape, recipe)
	if err != nil {
		return nil, err
	}
	if len(s.plans) < 64 {
		s.plans[recipe] = plan
	} // else it ends when it is garbage
	return plan, nil
}

// take waits for a conversation's turn.
func (s *store) take(id string) (*conversation, error) {
	s.mu.Lock()
	c := s.conversations[id]
	s.mu.Unlock()
	if c != nil {
		c.turn <- struct{}{}
		if !c.gone {
			return c, nil
		}
		<-c.turn
	}
	return nil, refuse(http.StatusNotFound, "there is no cache %q", id)
}

// add keeps a conversation that the caller has the turn of, and ends that turn.
func (s *store) add(c *conversation) error {
	if err := s.insert(c); err != nil {
		return err
	}
	<-c.turn
	return nil
}

// room refuses when no further conversation can be kept.
func (s *store) room() error {
	if len(s.conversations) >= s.limit {
		return refuse(http.StatusTooManyRequests, "%d conversations are kept already, the most that this service does; delete one", s.limit)
	}
	return nil
}

func (s *store) insert(c *conversation) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.room(); err != nil {
		return err
	}
	s.conversations[c.id] = c
	c.store = s
	return nil
}

// keep puts the result of a request into its conversation, which is kept from now on.
func (s *store) keep(c *conversation, session *model.Session) error {
	if c.store == nil {
		if err := s.insert(c); err != nil {
			return err
		}
	}
	c.mu.Lock()
	c.replaced, c.session = c.session, session
	c.mu.Unlock()
	return nil
}

func (s *store) remove(id string) error {
	c, err := s.take(id)
	if err != nil {
		return err
	}
	s.mu.Lock()
	delete(s.conversations, id)
	s.mu.Unlock()
	c.gone = true
	c.session.Cache.Close()
	<-c.turn
	return nil
}

func (s *store) all() []*conversation {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*conversation, 0, len(s.conversations))
	for _, c := range s.conversations {
		all = append(all, c)
	}
	sort.Slice(all, func(i, j int) bool { return all[i].id < all[j].id })
	return all
}

func (s *store) close() {
	for _, c := range s.all() {
		_ = s.remove(c.id)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, plan := range s.plans {
		plan.Close()
	}
}
