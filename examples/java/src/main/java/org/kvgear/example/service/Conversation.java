package org.kvgear.example.service;

import java.security.SecureRandom;
import java.util.HexFormat;
import java.util.concurrent.locks.ReentrantLock;
import org.kvgear.KvgCache;
import org.kvgear.Side;
import org.kvgear.Stats;
import org.kvgear.example.model.Session;

/** A text and its cache. One request has it at a time; the others wait for their turn. */
final class Conversation {
  private static final SecureRandom RANDOM = new SecureRandom();

  final String id = newId();
  final String recipe;
  final ReentrantLock turn = new ReentrantLock(true);
  private Session session;
  private boolean gone; // guarded by turn

  Conversation(String recipe, Session session) {
    this.recipe = recipe;
    this.session = session;
  }

  static String newId() {
    byte[] bytes = new byte[12];
    RANDOM.nextBytes(bytes);
    return HexFormat.of().formatHex(bytes);
  }

  /** The text as it is now, for the request whose turn it is. */
  synchronized Session session() {
    return session;
  }

  /** Puts the result of a request in place of the text before it. */
  void replace(Session next) {
    Session old;
    synchronized (this) {
      old = session;
      session = next;
    }
    old.close();
  }

  /** Memory of the cache, beside a request that may be at work. */
  synchronized Stats stats() {
    return session.cache().stats(KvgCache.ALL_LAYERS, Side.BOTH);
  }

  boolean isGone() {
    return gone;
  }

  /** Ends it; for the request whose turn it is. */
  void end() {
    gone = true;
    session().close();
  }
}
