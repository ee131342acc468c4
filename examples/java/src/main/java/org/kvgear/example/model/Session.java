package org.kvgear.example.model;

import java.io.IOException;
import java.util.Arrays;
import org.kvgear.KvgCache;

/** One text and its compressed cache, which belongs to it. For one thread at a time. */
public final class Session implements AutoCloseable {
  /** Receives the bytes of an answer. */
  public interface Emit {
    /**
     * Takes one byte.
     *
     * @param token the byte
     * @throws IOException to end the text
     */
    void put(byte token) throws IOException;
  }

  private final Model model;
  private final KvgCache cache;
  private byte[] pending; // tokens that the cache does not hold yet: the last one generated
  private int length; // tokens in the cache

  /**
   * Begins an empty text.
   *
   * @param model the model
   * @param cache an empty cache, which the session closes
   */
  public Session(Model model, KvgCache cache) {
    this(model, cache, new byte[0], 0);
  }

  private Session(Model model, KvgCache cache, byte[] pending, int length) {
    this.model = model;
    this.cache = cache;
    this.pending = pending;
    this.length = length;
  }

  /**
   * Makes a second session with the same text.
   *
   * @return the session
   */
  public Session fork() {
    return new Session(model, cache.fork(), pending, length);
  }

  /**
   * The cache, for its statistics.
   *
   * @return the cache
   */
  public KvgCache cache() {
    return cache;
  }

  /**
   * Tokens of the text.
   *
   * @return the number
   */
  public int tokens() {
    return length + pending.length;
  }

  @Override
  public void close() {
    cache.close();
  }

  /**
   * Appends the prompt to the text and then continues it, with the likeliest byte each time. A session in which this failed must not
   * be used further.
   *
   * @param w memory to compute in
   * @param prompt the bytes, at least one
   * @param count how many bytes to make
   * @param emit receives them
   * @throws IOException of emit
   */
  public void generate(Workspace w, byte[] prompt, int count, Emit emit) throws IOException {
    byte[] tokens = Arrays.copyOf(pending, pending.length + prompt.length);
    System.arraycopy(prompt, 0, tokens, pending.length, prompt.length);
    int last = tokens.length - 1;
    if (length == 0 && last > 0) {
      Prefill.run(w, cache, tokens, last);
      length = last;
    } else {
      for (int i = 0; i < last; i++) {
        step(w, tokens[i]);
      }
    }
    byte token = tokens[last];
    for (int i = 0; i < count; i++) {
      step(w, token);
      Prefill.norm(w, model.finalNorm, w.token, 0, 1);
      model.head.multiply(w.normed, 0, 1, w.logits, 0, false, w.sums);
      token = likeliest(w.logits);
      emit.put(token);
    }
    pending = new byte[] {token};
  }

  private static byte likeliest(float[] logits) {
    int best = 0;
    for (int i = 1; i < logits.length; i++) {
      best = logits[i] > logits[best] ? i : best;
    }
    return (byte) best;
  }

  /** Feeds one token; what the last layer makes of it is left in w.token. */
  private void step(Workspace w, byte token) {
    System.arraycopy(model.embedding, (token & 0xFF) * model.hidden, w.token, 0, model.hidden);
    for (int i = 0; i < model.layerCount; i++) {
      Model.Layer layer = model.layers[i];
      Prefill.norm(w, layer.attentionNorm(), w.token, 0, 1);
      layer.qkv().multiply(w.normed, 0, 1, w.wide, 0, false, w.sums);
      model.rotate(w.wide, 0, model.qHeads + model.kvHeads, length);
      int keyAt = model.qWidth();
      int valueAt = keyAt + model.kvWidth();
      w.q.put(0, w.wide, 0, model.qWidth());
      for (int j = 0; j < model.kvWidth(); j++) {
        w.k.put(j, Half.fromFloat(w.wide[keyAt + j]));
        w.v.put(j, Half.fromFloat(w.wide[valueAt + j]));
      }
      cache.append(i, w.kTensor, w.vTensor);
      cache.attend(i, w.qTensor, w.outTensor);
      w.out.get(0, w.attended);
      layer.output().multiply(w.attended, 0, 1, w.token, 0, true, w.sums);
      Prefill.feedForward(w, layer, w.token, 0, 1);
    }
    length++;
  }
}
