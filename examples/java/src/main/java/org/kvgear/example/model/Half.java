package org.kvgear.example.model;

/** IEEE binary16 as bits, which is what a cache keeps. */
public final class Half {
  /**
   * The value of a binary16.
   *
   * @param half its bits
   * @return the value, exactly
   */
  public static float toFloat(short half) {
    int sign = half << 16 & 0x80000000;
    int exponent = half >> 10 & 31;
    int fraction = half & 0x3FF;
    if (exponent == 0) { // zero and subnormals: steps of 2^-24
      return Float.intBitsToFloat(sign | Float.floatToRawIntBits(fraction * 0x1p-24f));
    }
    return Float.intBitsToFloat(sign | (exponent == 31 ? 255 : exponent + 112) << 23 | fraction << 13);
  }

  /**
   * Rounds to the nearest binary16, ties to even; what is too large becomes infinity.
   *
   * @param x any number
   * @return its bits
   */
  public static short fromFloat(float x) {
    int bits = Float.floatToRawIntBits(x);
    int sign = bits >> 16 & 0x8000;
    bits &= 0x7FFFFFFF;
    if (bits > 0x7F800000) {
      return (short) (sign | 0x7E00);
    }
    if (bits >= 0x477FF000) { // 65520 and above
      return (short) (sign | 0x7C00);
    }
    if (bits < 0x38800000) { // below the least normal number
      return (short) (sign | (int) Math.rint(Float.intBitsToFloat(bits) * 0x1p24));
    }
    bits += 0xFFF + (bits >> 13 & 1);
    return (short) (sign | bits - (112 << 23) >> 13);
  }

  private Half() {}
}
