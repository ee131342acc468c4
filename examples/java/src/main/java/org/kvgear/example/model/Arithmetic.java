package org.kvgear.example.model;

import java.util.Arrays;

/**
 * The arithmetic of the layers, in the order in which the C++ demo of this repository computes on vectors of 16: fused multiply-adds,
 * sums over at most 512 inputs that are then added up, sums of squares and of exponents in 16 lanes. So both put the same keys and
 * values into their caches. Loops go over outputs, which is what Java's compiler turns into vectors.
 */
final class Arithmetic {
  static final int SLICE = 512; // inputs that are summed before they are added to the rest
  private static final int LANES = 16;

  /**
   * sums[r][o] = the sum over from &lt;= i &lt; to of x[at + r * stride + i] * w[i][o], for o &lt; count; w[i] is a row of at least
   * that many. The result for a row does not depend on the other rows.
   */
  static void slice(float[][] sums, int count, float[] x, int at, int stride, int rows, float[][] w, int from, int to) {
    for (int r = 0; r < rows; r++) {
      Arrays.fill(sums[r], 0, count, 0);
    }
    int i = from;
    for (; i + 4 <= to; i += 4) { // four at a time: the sums stay in registers meanwhile
      for (int r = 0, p = at + i; r < rows; r++, p += stride) {
        add4(sums[r], count, x[p], x[p + 1], x[p + 2], x[p + 3], w[i], w[i + 1], w[i + 2], w[i + 3]);
      }
    }
    for (; i < to; i++) {
      for (int r = 0, p = at + i; r < rows; r++, p += stride) {
        add1(sums[r], count, x[p], w[i]);
      }
    }
  }

  private static void add4(
      float[] sums, int count, float x0, float x1, float x2, float x3, float[] w0, float[] w1, float[] w2, float[] w3) {
    for (int o = 0; o < count; o++) {
      sums[o] = Math.fma(x3, w3[o], Math.fma(x2, w2[o], Math.fma(x1, w1[o], Math.fma(x0, w0[o], sums[o]))));
    }
  }

  private static void add1(float[] sums, int count, float x, float[] w) {
    for (int o = 0; o < count; o++) {
      sums[o] = Math.fma(x, w[o], sums[o]);
    }
  }

  /** e to the x, to about 2e-7, for x &lt;= 88; below -87 it stays at that of -87. */
  static float exp(float x) {
    x = x > -87 ? x : -87;
    float shifted = Math.fma(x, 1.44269504f, 12582912f); // 1.5 * 2^23: the last bits are those of round(x / ln 2)
    float n = shifted - 12582912f;
    float r = Math.fma(n, 2.12194440e-4f, Math.fma(-n, 0.693359375f, x));
    float p = 1.3981999507e-3f;
    p = Math.fma(p, r, 8.3334519073e-3f);
    p = Math.fma(p, r, 4.1665795894e-2f);
    p = Math.fma(p, r, 1.6666665459e-1f);
    p = Math.fma(p, r, 5.0000001201e-1f);
    p = Math.fma(p * r, r, r) + 1;
    return Float.intBitsToFloat(Float.floatToRawIntBits(p) + (Float.floatToRawIntBits(shifted) << 23));
  }

  /** row[i] = exp(scale * row[i] - m) for i &lt; count, m making the largest 1. Returns the sum. */
  static float softmax(float[] row, int count, float scale) {
    float most = Float.NEGATIVE_INFINITY;
    for (int i = 0; i < count; i++) {
      most = row[i] > most ? row[i] : most;
    }
    most *= scale;
    float[] lanes = new float[LANES];
    int whole = count / LANES * LANES;
    for (int i = 0; i < whole; i++) {
      row[i] = exp(Math.fma(row[i], scale, -most));
      lanes[i % LANES] += row[i];
    }
    float sum = total(lanes);
    for (int i = whole; i < count; i++) {
      row[i] = (float) Math.exp(Math.fma(row[i], scale, -most));
      sum += row[i];
    }
    return sum;
  }

  /** out[to + i] = x[at + i] / sqrt(mean of x^2 + epsilon) * weight[i]. */
  static void norm(float[] x, int at, float[] weight, float epsilon, float[] out, int to) {
    int n = weight.length;
    int whole = n / LANES * LANES;
    float[] lanes = new float[LANES];
    for (int i = 0; i < whole; i++) {
      lanes[i % LANES] = Math.fma(x[at + i], x[at + i], lanes[i % LANES]);
    }
    float sum = total(lanes);
    for (int i = whole; i < n; i++) {
      sum = Math.fma(x[at + i], x[at + i], sum);
    }
    float factor = 1 / (float) Math.sqrt(sum / n + epsilon);
    for (int i = 0; i < n; i++) {
      out[to + i] = x[at + i] * factor * weight[i];
    }
  }

  private static float total(float[] lanes) {
    float sum = 0;
    for (float lane : lanes) {
      sum += lane;
    }
    return sum;
  }

  /** out[to + i] = silu(gates[at + i]) * gates[at + count + i], for i &lt; count. */
  static void gate(float[] gates, int at, int count, float[] out, int to) {
    for (int i = 0; i < count; i++) {
      float g = gates[at + i];
      out[to + i] = g / (1 + exp(-g < 80 ? -g : 80)) * gates[at + count + i];
    }
  }

  private Arithmetic() {}
}
