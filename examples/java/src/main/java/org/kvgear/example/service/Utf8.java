package org.kvgear.example.service;

import java.nio.ByteBuffer;
import java.nio.CharBuffer;
import java.nio.charset.CharsetDecoder;
import java.nio.charset.CoderResult;
import java.nio.charset.CodingErrorAction;
import java.nio.charset.StandardCharsets;

/** Texts as bytes, also bytes that are no text. */
final class Utf8 {
  private static CharsetDecoder decoder() {
    return StandardCharsets.UTF_8.newDecoder().onMalformedInput(CodingErrorAction.REPORT);
  }

  /** The text of bytes. Each run of bytes that are no UTF-8 becomes one U+FFFD. */
  static String text(byte[] bytes) {
    CharsetDecoder decoder = decoder();
    ByteBuffer in = ByteBuffer.wrap(bytes);
    CharBuffer out = CharBuffer.allocate(bytes.length);
    int behind = -1; // where the run ends that was replaced last
    while (true) {
      CoderResult result = decoder.decode(in, out, true);
      if (!result.isMalformed()) {
        return out.flip().toString();
      }
      if (in.position() != behind) {
        out.put('\uFFFD');
      }
      in.position(in.position() + result.length());
      behind = in.position();
      decoder.reset();
    }
  }

  /** Whether the bytes begin with a whole character, or with something that cannot become one. */
  static boolean isWhole(byte[] bytes) {
    ByteBuffer in = ByteBuffer.wrap(bytes);
    return decoder().decode(in, CharBuffer.allocate(bytes.length), false).isMalformed() || in.position() > 0;
  }

  /** The bytes of a text; half of a surrogate pair becomes U+FFFD. */
  static byte[] bytes(String text) {
    StringBuilder whole = new StringBuilder(text);
    for (int i = 0; i < whole.length(); i++) {
      if (Character.isSurrogate(whole.charAt(i))) {
        if (i + 1 < whole.length() && Character.isSurrogatePair(whole.charAt(i), whole.charAt(i + 1))) {
          i++;
        } else {
          whole.setCharAt(i, '\uFFFD');
        }
      }
    }
    return whole.toString().getBytes(StandardCharsets.UTF_8);
  }

  private Utf8() {}
}
