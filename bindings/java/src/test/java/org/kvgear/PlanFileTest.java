package org.kvgear;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** What the header of a plan file alone decides; that latents answer right is tested on the C interface. */
class PlanFileTest {
  private static final byte[] NONE = {};

  @Test
  void planFiles(@TempDir Path folder) throws Exception {
    byte[] header =
        ("{\"__metadata__\":{\"kvgear.plan\":\"1\",\"layers\":\"2\",\"q_heads\":\"4\",\"kv_heads\":\"2\","
                + "\"head_dim\":\"32\",\"recipes\":\"gear-4\",\"fingerprint\":\"mine\"}}")
            .getBytes(StandardCharsets.UTF_8);
    ByteBuffer bytes = ByteBuffer.allocate(8 + header.length).order(ByteOrder.LITTLE_ENDIAN);
    Path file = folder.resolve("plan.safetensors");
    Files.write(file, bytes.putLong(header.length).put(header).array());
    String path = file.toString();
    try (KvgPlan plan = KvgPlan.load(path, new Shape(2, 4, 2, 32), "", new byte[] {'m', 'i', 'n', 'e'})) {
      assertEquals("gear-4", plan.recipe(1));
      assertArrayEquals(new int[] {0, 0}, plan.latent(1, Side.K));
      assertThrows(KvgException.class, () -> plan.latent(2, Side.K));
    }
    assertThrows(KvgException.class, () -> KvgPlan.load(path, null, "", new byte[] {'y'}));
    assertThrows(KvgException.class, () -> KvgPlan.load(path, null, "palu", NONE));
    assertThrows(KvgException.class, () -> KvgPlan.load(path + "x", null, "", NONE));
  }
}
