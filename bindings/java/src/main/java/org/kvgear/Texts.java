package org.kvgear;

import java.nio.charset.StandardCharsets;
import java.util.Arrays;

/** Texts on their way to C and back. */
final class Texts {
  interface Question {
    void ask(byte[] buffer, long[] needed);
  }

  /** The text with the terminator that C needs; one that has a terminator inside is refused. */
  static byte[] terminated(String operation, String what, String text) {
    byte[] utf8 = text.getBytes(StandardCharsets.UTF_8);
    if (text.indexOf('\0') >= 0) {
      throw KvgException.invalid(operation, what + " holds a zero byte");
    }
    return Arrays.copyOf(utf8, utf8.length + 1);
  }

  /** Asks for a text, again with a longer buffer when the first is too short. */
  static String ask(Question question) {
    byte[] buffer = new byte[256];
    long[] needed = new long[1];
    while (true) {
      try {
        question.ask(buffer, needed);
        return new String(buffer, 0, (int) needed[0] - 1, StandardCharsets.UTF_8); // less the terminator
      } catch (KvgException e) {
        if (e.status() != Status.BUFFER_TOO_SMALL || needed[0] <= buffer.length) {
          throw e;
        }
        buffer = new byte[Math.toIntExact(needed[0])];
      }
    }
  }

  private Texts() {}
}
