package org.kvgear.example.model;

import java.util.Arrays;
import org.kvgear.KvgCache;
import org.kvgear.Tensor;

/**
 * Puts the first tokens of a text into an empty cache, layer by layer. Among themselves they attend to the exact fp16 keys and values;
 * compression is for what comes later.
 */
final class Prefill {
  private final Model model;
  private final Workspace w;
  private final int n;

  private Prefill(Workspace w, int n) {
    this.model = w.model;
    this.w = w;
    this.n = n;
  }

  static void run(Workspace w, KvgCache cache, byte[] text, int n) {
    w.reserve(n);
    Model model = w.model;
    for (int t = 0; t < n; t++) {
      System.arraycopy(model.embedding, (text[t] & 0xFF) * model.hidden, w.x, t * model.hidden, model.hidden);
    }
    new Prefill(w, n).layers(cache);
  }

  private void layers(KvgCache cache) {
    // Tensors of as much of the memory as the prompt takes.
    int elements = n * model.kvWidth();
    Tensor k = Tensor.f16(w.promptK.slice(0, elements));
    Tensor v = Tensor.f16(w.promptV.slice(0, elements));
    for (int i = 0; i < model.layerCount; i++) {
      Model.Layer layer = model.layers[i];
      for (int first = 0; first < n; first += Workspace.BLOCK) {
        project(layer, first, Math.min(Workspace.BLOCK, n - first));
      }
      cache.append(i, k, v);
      if (i == model.layerCount - 1) {
        return; // nothing reads what the last layer computes of these
      }
      for (int t = 0; t < n; t++) {
        for (int head = 0; head < model.kvHeads; head++) {
          attend(t, head);
        }
      }
      for (int first = 0; first < n; first += Workspace.BLOCK) {
        int count = Math.min(Workspace.BLOCK, n - first);
        layer.output().multiply(w.queries, first * model.qWidth(), count, w.x, first * model.hidden, true, w.sums);
        feedForward(w, layer, w.x, first, count);
      }
    }
  }

  /** Queries, keys and values of some tokens; keys and values as they are in the cache, too. */
  private void project(Model.Layer layer, int first, int count) {
    norm(w, layer.attentionNorm(), w.x, first, count);
    layer.qkv().multiply(w.normed, 0, count, w.wide, 0, false, w.sums);
    int dim = model.headDim;
    for (int r = 0; r < count; r++) {
      int t = first + r;
      int row = r * layer.qkv().outputs;
      model.rotate(w.wide, row, model.qHeads + model.kvHeads, t);
      System.arraycopy(w.wide, row, w.queries, t * model.qWidth(), model.qWidth());
      int keyAt = row + model.qWidth();
      int valueAt = keyAt + model.kvWidth();
      for (int i = 0; i < model.kvWidth(); i++) {
        short k = Half.fromFloat(w.wide[keyAt + i]);
        short v = Half.fromFloat(w.wide[valueAt + i]);
        w.promptK.put(t * model.kvWidth() + i, k);
        w.promptV.put(t * model.kvWidth() + i, v);
        w.keys[i][t] = Half.toFloat(k);
        w.values[i / dim][t][i % dim] = Half.toFloat(v);
      }
    }
  }

  /** The queries of one token that share a head, over this token and those before it. */
  private void attend(int t, int head) {
    int dim = model.headDim;
    int group = w.group();
    int at = t * model.qWidth() + head * group * dim;
    int seen = t + 1;
    float[][] keys = Arrays.copyOfRange(w.keys, head * dim, (head + 1) * dim);
    Arithmetic.slice(w.sums, seen, w.queries, at, dim, group, keys, 0, dim);
    float[] totals = new float[group];
    for (int r = 0; r < group; r++) {
      totals[r] = Arithmetic.softmax(w.sums[r], seen, 1 / (float) Math.sqrt(dim));
      System.arraycopy(w.sums[r], 0, w.scores, r * seen, seen);
    }
    for (int begin = 0; begin < seen; begin += Arithmetic.SLICE) {
      int end = Math.min(seen, begin + Arithmetic.SLICE);
      Arithmetic.slice(w.sums, dim, w.scores, 0, seen, group, w.values[head], begin, end);
      for (int r = 0; r < group; r++) {
        for (int i = 0; i < dim; i++) {
          int p = at + r * dim + i;
          w.queries[p] = begin == 0 ? w.sums[r][i] : w.queries[p] + w.sums[r][i];
        }
      }
    }
    for (int r = 0; r < group; r++) {
      for (int i = 0; i < dim; i++) {
        w.queries[at + r * dim + i] /= totals[r];
      }
    }
  }

  /** Norms some rows of x into w.normed. */
  static void norm(Workspace w, float[] weight, float[] x, int first, int count) {
    int hidden = w.model.hidden;
    for (int r = 0; r < count; r++) {
      Arithmetic.norm(x, (first + r) * hidden, weight, w.model.epsilon, w.normed, r * hidden);
    }
  }

  /** Adds to some rows of x what the second half of a layer makes of them. */
  static void feedForward(Workspace w, Model.Layer layer, float[] x, int first, int count) {
    Model model = w.model;
    norm(w, layer.mlpNorm(), x, first, count);
    layer.gateUp().multiply(w.normed, 0, count, w.wide, 0, false, w.sums);
    for (int r = 0; r < count; r++) {
      Arithmetic.gate(w.wide, r * 2 * model.wide, model.wide, w.gated, r * model.wide);
    }
    layer.down().multiply(w.gated, 0, count, x, first * model.hidden, true, w.sums);
  }
}
