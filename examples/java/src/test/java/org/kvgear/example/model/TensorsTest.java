package org.kvgear.example.model;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class TensorsTest {
  @TempDir Path folder;

  private static byte[] file(String header, byte... data) {
    byte[] text = header.getBytes(StandardCharsets.UTF_8);
    ByteBuffer file = ByteBuffer.allocate(8 + text.length + data.length).order(ByteOrder.LITTLE_ENDIAN);
    return file.putLong(text.length).put(text).put(data).array();
  }

  private static String entry(String type, String shape, int begin, int end) {
    return "{\"__metadata__\": {\"a\": \"b\"}, \"x\": {\"dtype\": \"" + type + "\", \"shape\": " + shape + ", \"data_offsets\": [" + begin + ", " + end + "]}}";
  }

  private float[] get(byte[] file) throws IOException {
    Path path = Files.write(folder.resolve("model.safetensors"), file);
    return Tensors.open(path).get("x", 2, 2);
  }

  @Test
  void types() throws IOException {
    float[] want = {1, -2, 0.5f, 0};
    ByteBuffer f32 = ByteBuffer.allocate(16).order(ByteOrder.LITTLE_ENDIAN);
    ByteBuffer f16 = ByteBuffer.allocate(8).order(ByteOrder.LITTLE_ENDIAN);
    ByteBuffer bf16 = ByteBuffer.allocate(9).order(ByteOrder.LITTLE_ENDIAN).position(1);
    for (float x : want) {
      f32.putFloat(x);
      f16.putShort(Half.fromFloat(x));
      bf16.putShort((short) (Float.floatToRawIntBits(x) >> 16));
    }
    assertArrayEquals(want, get(file(entry("F32", "[2, 2]", 0, 16), f32.array())));
    assertArrayEquals(want, get(file(entry("F16", "[2, 2]", 0, 8), f16.array())));
    assertArrayEquals(want, get(file(entry("BF16", "[2, 2]", 1, 9), bf16.array())));
  }

  @Test
  void damagedFiles() {
    byte[] infinite = new byte[8];
    infinite[7] = 0x7C;
    Map<String, byte[]> files = new LinkedHashMap<>();
    files.put("too short", new byte[] {1, 2, 3});
    files.put("more than", ByteBuffer.allocate(8).order(ByteOrder.LITTLE_ENDIAN).putLong(1L << 40).array());
    files.put("18446744073709551615 bytes", ByteBuffer.allocate(8).putLong(-1).array());
    files.put("no JSON", file("{\"x\""));
    files.put("no tensor", file("{}"));
    files.put("shape [4]", file(entry("F16", "[4]", 0, 8), new byte[8]));
    files.put("shape [2, -1]", file(entry("F16", "[2, \"?\"]", 0, 8), new byte[8]));
    files.put("of type", file(entry("I64", "[2, 2]", 0, 32), new byte[32]));
    files.put("outside of the", file(entry("F16", "[2, 2]", 0, 8), new byte[7]));
    files.put("lies outside", file(entry("F16", "[2, 2]", 8, 0), new byte[8]));
    files.put("\"x\" lies outside", file(entry("F16", "[2, 2]", -8, 0), new byte[8]));
    files.put("infinity", file(entry("F16", "[2, 2]", 0, 8), infinite));
    files.forEach((words, file) -> {
      IOException e = assertThrows(IOException.class, () -> get(file), words);
      assertTrue(e.getMessage().contains(words), e.getMessage());
    });
  }
}
