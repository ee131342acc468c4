package org.kvgear.example.service;

import java.util.ArrayList;
import java.util.List;
import java.util.TreeMap;

/** The conversations that are kept between requests. */
final class Conversations {
  private final int limit;
  private final TreeMap<String, Conversation> all = new TreeMap<>();

  Conversations(int limit) {
    this.limit = limit;
  }

  /** Waits for a conversation's turn, which the caller must end. */
  Conversation take(String id) {
    Conversation c;
    synchronized (this) {
      c = all.get(id);
    }
    if (c != null) {
      c.turn.lock();
      if (!c.isGone()) {
        return c;
      }
      c.turn.unlock();
    }
    throw new Refusal(404, "there is no cache \"" + id + "\"");
  }

  /** Refuses when no further conversation can be kept. */
  synchronized void room() {
    if (all.size() >= limit) {
      throw new Refusal(429, limit + " conversations are kept already, the most that this service does; delete one");
    }
  }

  synchronized void add(Conversation c) {
    room();
    all.put(c.id, c);
  }

  void remove(String id) {
    Conversation c = take(id);
    try {
      synchronized (this) {
        all.remove(id);
      }
      c.end();
    } finally {
      c.turn.unlock();
    }
  }

  synchronized List<Conversation> list() {
    return new ArrayList<>(all.values());
  }
}
