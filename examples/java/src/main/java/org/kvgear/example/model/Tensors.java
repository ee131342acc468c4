package org.kvgear.example.model;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.channels.FileChannel;
import java.nio.file.Path;
import java.util.Arrays;

/** The tensors of a safetensors file. What is wrong with a file is an IOException with a sentence. */
final class Tensors {
  private final Path path;
  private final ByteBuffer data;
  private final JsonNode index;

  private Tensors(Path path, ByteBuffer data, JsonNode index) {
    this.path = path;
    this.data = data;
    this.index = index;
  }

  static Tensors open(Path path) throws IOException {
    try (FileChannel channel = FileChannel.open(path)) {
      long size = channel.size();
      if (size < Long.BYTES) {
        throw new IOException(path + " is too short for a safetensors file");
      }
      if (size > Integer.MAX_VALUE) {
        throw new IOException(path + " has " + size + " bytes; this program reads files below 2 GiB");
      }
      ByteBuffer file = channel.map(FileChannel.MapMode.READ_ONLY, 0, size).order(ByteOrder.LITTLE_ENDIAN);
      long header = file.getLong();
      if (header < 0 || header > size - Long.BYTES) {
        throw new IOException(path + " says that its header has " + Long.toUnsignedString(header) + " bytes, more than the file");
      }
      byte[] text = new byte[(int) header];
      file.get(text);
      JsonNode index;
      try {
        index = new ObjectMapper().readTree(text);
      } catch (JsonProcessingException e) {
        throw new IOException("the header of " + path + " is no JSON: " + e.getOriginalMessage(), e);
      }
      return new Tensors(path, file.slice().order(ByteOrder.LITTLE_ENDIAN), index);
    }
  }

  /** A tensor, which must exist and have this shape. */
  float[] get(String name, int... shape) throws IOException {
    JsonNode entry = index.path(name);
    if (!entry.isObject()) {
      throw new IOException(path + " has no tensor \"" + name + "\"");
    }
    int[] found = new int[entry.path("shape").size()];
    for (int i = 0; i < found.length; i++) {
      found[i] = entry.path("shape").get(i).asInt(-1);
    }
    if (!Arrays.equals(found, shape)) {
      throw new IOException(path + ": \"" + name + "\" has the shape " + Arrays.toString(found) + ", not " + Arrays.toString(shape));
    }
    String type = entry.path("dtype").asText();
    int size =
        switch (type) {
          case "F32" -> 4;
          case "F16", "BF16" -> 2;
          default -> throw new IOException(path + ": \"" + name + "\" is of type " + type + "; F32, F16 and BF16 are known");
        };
    int count = 1;
    for (int n : shape) {
      count = Math.multiplyExact(count, n);
    }
    long begin = entry.path("data_offsets").path(0).asLong(-1);
    long end = entry.path("data_offsets").path(1).asLong(-1);
    if (begin < 0 || end > data.capacity() || end - begin != (long) count * size) {
      throw new IOException(path + ": \"" + name + "\" lies outside of the file");
    }
    float[] out = new float[count];
    for (int i = 0; i < count; i++) {
      int at = (int) begin + i * size;
      out[i] =
          switch (type) {
            case "F32" -> data.getFloat(at);
            case "F16" -> Half.toFloat(data.getShort(at));
            default -> Float.intBitsToFloat(data.getShort(at) << 16);
          };
      if (!Float.isFinite(out[i])) {
        throw new IOException(path + ": \"" + name + "\" holds infinity or something that is no number");
      }
    }
    return out;
  }
}
