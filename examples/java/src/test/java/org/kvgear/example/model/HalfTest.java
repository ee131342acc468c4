package org.kvgear.example.model;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import org.junit.jupiter.api.Test;

class HalfTest {
  @Test
  void everyHalf() {
    for (int bits = 0; bits < 1 << 16; bits++) {
      float x = Half.toFloat((short) bits);
      if (Float.isNaN(x)) {
        int got = Half.fromFloat(x);
        assertTrue((got & 0x7C00) == 0x7C00 && (got & 0x3FF) != 0, "NaN " + bits);
        continue;
      }
      assertEquals((short) bits, Half.fromFloat(x));
      if ((bits & 0x7FFF) >= 0x7C00) {
        assertTrue(Float.isInfinite(x));
        continue;
      }
      // Between two neighbours: to the even one at the middle, to the nearer one beside it.
      float next = (bits & 0x7FFF) == 0x7BFF ? Math.copySign(65536f, x) : Half.toFloat((short) (bits + 1));
      float middle = (x + next) / 2;
      assertEquals((short) (bits + (bits & 1)), Half.fromFloat(middle));
      assertEquals((short) bits, Half.fromFloat(Math.nextAfter(middle, x)));
    }
    assertEquals(1.5f, Half.toFloat((short) 0x3E00));
    assertEquals(-0x1p-24f, Half.toFloat((short) 0x8001));
  }
}
