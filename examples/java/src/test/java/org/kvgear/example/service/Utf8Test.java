package org.kvgear.example.service;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;

import java.nio.charset.StandardCharsets;
import org.junit.jupiter.api.Test;

class Utf8Test {
  private static byte[] bytes(int... values) {
    byte[] bytes = new byte[values.length];
    for (int i = 0; i < values.length; i++) {
      bytes[i] = (byte) values[i];
    }
    return bytes;
  }

  @Test
  void texts() {
    assertEquals("", Utf8.text(bytes()));
    assertEquals("a\u00E9\u4E2D\uD83D\uDE00", Utf8.text("a\u00E9\u4E2D\uD83D\uDE00".getBytes(StandardCharsets.UTF_8)));
    assertEquals("\uFFFD", Utf8.text(bytes(0x80)));
    assertEquals("a\uFFFDb", Utf8.text(bytes('a', 0xFF, 0xFE, 0x80, 'b'))); // a run becomes one
    assertEquals("\uFFFDa\uFFFD", Utf8.text(bytes(0xE4, 0xB8, 'a', 0xF0, 0x9F)));
    assertEquals("\uFFFD\u00E9\uFFFD", Utf8.text(bytes(0xC3, 0xC3, 0xA9, 0xC3)));
    assertEquals("\uFFFD", Utf8.text(bytes(0xED, 0xA0, 0x80))); // half of a pair
  }

  @Test
  void wholeCharacters() {
    assertEquals(false, Utf8.isWhole(bytes()));
    assertEquals(true, Utf8.isWhole(bytes('a')));
    assertEquals(false, Utf8.isWhole(bytes(0xE4)));
    assertEquals(false, Utf8.isWhole(bytes(0xE4, 0xB8)));
    assertEquals(true, Utf8.isWhole(bytes(0xE4, 0xB8, 0xAD)));
    assertEquals(true, Utf8.isWhole(bytes(0xE4, 'a')));
    assertEquals(false, Utf8.isWhole(bytes(0xF0, 0x9F, 0x98)));
    assertEquals(true, Utf8.isWhole(bytes(0xF0, 0x9F, 0x98, 0x80)));
    assertEquals(true, Utf8.isWhole(bytes(0x80)));
  }

  @Test
  void prompts() {
    assertArrayEquals(bytes(0xF0, 0x9F, 0x98, 0x80, 'x'), Utf8.bytes("\uD83D\uDE00x"));
    assertArrayEquals(bytes('x', 0xEF, 0xBF, 0xBD, 'y', 0xEF, 0xBF, 0xBD), Utf8.bytes("x\uD83Dy\uDE00"));
  }
}
