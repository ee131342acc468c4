package org.kvgear.example.model;

/** A matrix of weights, or several with the same inputs one behind the other. */
final class Matrix {
  static final int ROWS = 8; // rows of x that are multiplied together, so that weights are read once for all

  final int inputs;
  final int outputs;
  private final float[][] rows; // [inputs][outputs]

  /**
   * A matrix of parts.
   *
   * @param inputs of all parts
   * @param parts each [outputs of its own, inputs]
   */
  Matrix(int inputs, float[]... parts) {
    this.inputs = inputs;
    int total = 0;
    for (float[] part : parts) {
      total += part.length / inputs;
    }
    outputs = total;
    rows = new float[inputs][outputs];
    int first = 0;
    for (float[] part : parts) {
      for (int o = 0; o < part.length / inputs; o++) {
        for (int i = 0; i < inputs; i++) {
          rows[i][first + o] = part[o * inputs + i];
        }
      }
      first += part.length / inputs;
    }
  }

  /** y[r] = this * x[r] for some rows that lie one behind the other, or adds it. x and y begin at `xAt` and `yAt`. */
  void multiply(float[] x, int xAt, int count, float[] y, int yAt, boolean add, float[][] sums) {
    for (int first = 0; first < count; first += ROWS) {
      int n = Math.min(ROWS, count - first);
      for (int begin = 0; begin < inputs; begin += Arithmetic.SLICE) {
        Arithmetic.slice(sums, outputs, x, xAt + first * inputs, inputs, n, rows, begin, Math.min(inputs, begin + Arithmetic.SLICE));
        for (int r = 0; r < n; r++) {
          int to = yAt + (first + r) * outputs;
          if (add || begin > 0) {
            for (int o = 0; o < outputs; o++) {
              y[to + o] += sums[r][o];
            }
          } else {
            System.arraycopy(sums[r], 0, y, to, outputs);
          }
        }
      }
    }
  }
}
