package org.kvgear.example.model;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.nio.ShortBuffer;
import org.kvgear.Tensor;

/**
 * The memory that computing takes, used again by one request after the other; for one thread at a time. That of a prompt grows to the
 * longest one.
 */
public final class Workspace {
  static final int BLOCK = 6 * Matrix.ROWS; // tokens that go through the matrices together

  final Model model;
  final float[] normed; // [BLOCK, hidden]
  final float[] wide; // [BLOCK, outputs of the widest matrix]
  final float[] gated; // [BLOCK, wide]
  final float[] logits;
  float[][] sums; // [rows, outputs of the widest matrix, or tokens]

  // One token.
  final float[] token;
  final float[] attended;
  final ShortBuffer k;
  final ShortBuffer v;
  final FloatBuffer q;
  final FloatBuffer out;
  final Tensor kTensor;
  final Tensor vTensor;
  final Tensor qTensor;
  final Tensor outTensor;

  // A prompt.
  private int capacity;
  float[] x; // [tokens, hidden]
  float[] queries; // [tokens, q_heads, head_dim], then what they found
  float[] scores; // [heads of a group, tokens]
  float[][] keys; // [kv_heads * head_dim][tokens]
  float[][][] values; // [kv_heads][tokens][head_dim]
  ShortBuffer promptK; // [tokens, kv_heads, head_dim]
  ShortBuffer promptV;

  /**
   * Memory for a model.
   *
   * @param model the model
   */
  public Workspace(Model model) {
    this.model = model;
    int widest = Math.max(Math.max(2 * model.wide, model.qWidth() + 2 * model.kvWidth()), Math.max(model.hidden, model.vocab));
    normed = new float[BLOCK * model.hidden];
    wide = new float[BLOCK * widest];
    gated = new float[BLOCK * model.wide];
    logits = new float[model.vocab];
    sums = new float[Math.max(Matrix.ROWS, group())][widest];
    token = new float[model.hidden];
    attended = new float[model.qWidth()];
    k = shorts(model.kvWidth());
    v = shorts(model.kvWidth());
    q = floats(model.qWidth());
    out = floats(model.qWidth());
    kTensor = Tensor.f16(k);
    vTensor = Tensor.f16(v);
    qTensor = Tensor.f32(q);
    outTensor = Tensor.f32(out);
  }

  /** Query heads that share a key/value head. */
  int group() {
    return model.qHeads / model.kvHeads;
  }

  /** Makes room for a prompt. */
  void reserve(int tokens) {
    if (tokens <= capacity) {
      return;
    }
    int now = Math.max(tokens, Math.min(model.positions(), Math.max(256, 2 * capacity)));
    x = new float[now * model.hidden];
    queries = new float[now * model.qWidth()];
    scores = new float[group() * now];
    keys = new float[model.kvWidth()][now];
    values = new float[model.kvHeads][now][model.headDim];
    promptK = shorts(now * model.kvWidth());
    promptV = shorts(now * model.kvWidth());
    if (sums[0].length < now) {
      sums = new float[sums.length][now];
    }
    capacity = now;
  }

  private static ShortBuffer shorts(int n) {
    return ByteBuffer.allocateDirect(n * Short.BYTES).order(ByteOrder.nativeOrder()).asShortBuffer();
  }

  private static FloatBuffer floats(int n) {
    return ByteBuffer.allocateDirect(n * Float.BYTES).order(ByteOrder.nativeOrder()).asFloatBuffer();
  }
}
