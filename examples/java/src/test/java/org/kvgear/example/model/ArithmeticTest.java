package org.kvgear.example.model;

import static org.junit.jupiter.api.Assertions.assertEquals;

import java.util.Random;
import org.junit.jupiter.api.Test;

/** Beside double precision, and that rows do not depend on one another. */
class ArithmeticTest {
  private static float[] random(Random random, int n) {
    float[] x = new float[n];
    for (int i = 0; i < n; i++) {
      x[i] = random.nextFloat() * 2 - 1;
    }
    return x;
  }

  @Test
  void exponents() {
    for (float x = -87; x <= 88; x += 0.0137f) {
      double want = Math.exp(x);
      assertEquals(want, Arithmetic.exp(x), 3e-7 * want);
    }
    assertEquals(1, Arithmetic.exp(0));
    assertEquals(Arithmetic.exp(-87), Arithmetic.exp(-1e9f));
  }

  @Test
  void products() {
    Random random = new Random(1);
    for (int inputs : new int[] {1, 3, 64, 511, 512, 513, 1030}) {
      for (int rows : new int[] {1, 7, 8, 19}) {
        float[] a = random(random, 5 * inputs);
        float[] b = random(random, 12 * inputs);
        Matrix matrix = new Matrix(inputs, a, b);
        assertEquals(17, matrix.outputs);
        float[] x = random(random, rows * inputs + 2);
        float[] y = random(random, rows * 17 + 3);
        float[] before = y.clone();
        float[][] sums = new float[Matrix.ROWS][17];
        matrix.multiply(x, 2, rows, y, 3, true, sums);
        float[] alone = before.clone();
        float[] instead = before.clone();
        matrix.multiply(x, 2, rows, instead, 3, false, sums);
        for (int r = 0; r < rows; r++) {
          matrix.multiply(x, 2 + r * inputs, 1, alone, 3 + r * 17, true, sums);
          for (int o = 0; o < 17; o++) {
            double want = before[3 + r * 17 + o];
            for (int i = 0; i < inputs; i++) {
              want += (double) x[2 + r * inputs + i] * (o < 5 ? a[o * inputs + i] : b[(o - 5) * inputs + i]);
            }
            assertEquals(want, y[3 + r * 17 + o], 1e-6 * (1 + inputs));
            assertEquals(want - before[3 + r * 17 + o], instead[3 + r * 17 + o], 1e-6 * (1 + inputs));
            assertEquals(alone[3 + r * 17 + o], y[3 + r * 17 + o]);
          }
        }
      }
    }
  }

  @Test
  void normsAndWeights() {
    Random random = new Random(2);
    for (int n : new int[] {1, 15, 16, 17, 100}) {
      float[] x = random(random, n);
      float[] weight = random(random, n);
      float[] out = new float[n + 1];
      double squares = 0;
      double sum = 0;
      double most = Double.NEGATIVE_INFINITY;
      for (float value : x) {
        squares += (double) value * value;
        most = Math.max(most, value);
      }
      Arithmetic.norm(x, 0, weight, 1e-6f, out, 1);
      for (int i = 0; i < n; i++) {
        assertEquals(x[i] / Math.sqrt(squares / n + 1e-6) * weight[i], out[i + 1], 1e-5);
        sum += Math.exp(3 * (x[i] - most));
      }
      float[] row = x.clone();
      assertEquals(sum, Arithmetic.softmax(row, n, 3), 1e-5 * n);
      for (int i = 0; i < n; i++) {
        assertEquals(Math.exp(3 * (x[i] - most)), row[i], 1e-6);
      }
      float[] gated = new float[n];
      float[] both = new float[2 * n];
      System.arraycopy(x, 0, both, 0, n);
      System.arraycopy(weight, 0, both, n, n);
      both[0] = -1e9f; // does not overflow
      Arithmetic.gate(both, 0, n, gated, 0);
      assertEquals(0, gated[0], 1e-20);
      for (int i = 1; i < n; i++) {
        assertEquals(x[i] / (1 + Math.exp(-x[i])) * weight[i], gated[i], 1e-6);
      }
    }
  }
}
