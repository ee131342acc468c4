package org.kvgear.example;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.Map;
import org.junit.jupiter.api.Test;

class FlagsTest {
  @Test
  void values() {
    Flags flags = new Flags("-listen", "127.0.0.1:0", "--recipe=int8,window=64", "-memory-budget", "99999999999", "-drain", "5s", "--client-timeout", "7");
    assertEquals("127.0.0.1", flags.address().getHostString());
    assertEquals(0, flags.address().getPort());
    assertEquals("int8,window=64", flags.options().recipe());
    assertEquals(99_999_999_999L, flags.options().memoryBudget());
    assertEquals(5, flags.drain);
    assertEquals(7, flags.clientTimeout);
    assertEquals(256, flags.options().maxTokens());
    assertTrue(new Flags("-listen", "[::1]:80").address().getAddress().isLoopbackAddress());
  }

  @Test
  void mistakes() {
    Map.of("no flag", "x", "there is no flag", "-what=3", "needs a value", "-recipe", "1 to", "-parallel=0", "0 to", "-memory-budget=-1").forEach((words, flag) -> {
      IllegalArgumentException e = assertThrows(IllegalArgumentException.class, () -> new Flags(flag));
      assertTrue(e.getMessage().contains(words), e.getMessage());
    });
    assertThrows(IllegalArgumentException.class, () -> new Flags("-listen", "localhost").address());
    assertThrows(IllegalArgumentException.class, () -> new Flags("-listen", "127.0.0.1:65536").address());
  }
}
