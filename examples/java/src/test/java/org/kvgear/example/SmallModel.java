package org.kvgear.example;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import org.kvgear.example.model.Model;

/** A model of arbitrary weights. It speaks printable ASCII: the rows of all other bytes are zero. */
final class SmallModel {
  private static final int HIDDEN = 64;
  private static final int WIDE = 96;
  private static final int LAYERS = 2;
  private static final int Q_HEADS = 4;
  private static final int KV_HEADS = 2;
  private static final int DIM = 32;

  private final ObjectNode index = new ObjectMapper().createObjectNode();
  private final ByteArrayOutputStream data = new ByteArrayOutputStream();
  private int seed = 1;

  /** Writes it into a folder and loads it. */
  static Model make(Path folder) throws IOException {
    ObjectNode config = new ObjectMapper().createObjectNode();
    config.put("model_type", "llama").put("vocab_size", 256).put("hidden_size", HIDDEN).put("intermediate_size", WIDE);
    config.put("num_hidden_layers", LAYERS).put("num_attention_heads", Q_HEADS).put("num_key_value_heads", KV_HEADS);
    config.put("head_dim", DIM).put("rms_norm_eps", 1e-6).put("rope_theta", 10000).put("max_position_embeddings", 4096);
    config.put("tie_word_embeddings", true);
    Files.writeString(folder.resolve("config.json"), config.toString());
    Files.write(folder.resolve("model.safetensors"), new SmallModel().file());
    return new Model(folder);
  }

  private byte[] file() {
    add("model.embed_tokens.weight", 256, HIDDEN);
    add("model.norm.weight", HIDDEN);
    for (int i = 0; i < LAYERS; i++) {
      String prefix = "model.layers." + i + ".";
      add(prefix + "input_layernorm.weight", HIDDEN);
      add(prefix + "post_attention_layernorm.weight", HIDDEN);
      add(prefix + "self_attn.q_proj.weight", Q_HEADS * DIM, HIDDEN);
      add(prefix + "self_attn.k_proj.weight", KV_HEADS * DIM, HIDDEN);
      add(prefix + "self_attn.v_proj.weight", KV_HEADS * DIM, HIDDEN);
      add(prefix + "self_attn.o_proj.weight", HIDDEN, Q_HEADS * DIM);
      add(prefix + "mlp.gate_proj.weight", WIDE, HIDDEN);
      add(prefix + "mlp.up_proj.weight", WIDE, HIDDEN);
      add(prefix + "mlp.down_proj.weight", HIDDEN, WIDE);
    }
    byte[] header = index.toString().getBytes(StandardCharsets.UTF_8);
    ByteBuffer file = ByteBuffer.allocate(8 + header.length + data.size()).order(ByteOrder.LITTLE_ENDIAN);
    return file.putLong(header.length).put(header).put(data.toByteArray()).array();
  }

  private void add(String name, int... shape) {
    int count = 1;
    ObjectNode entry = index.putObject(name).put("dtype", "F32");
    for (int n : shape) {
      count *= n;
      entry.withArray("shape").add(n);
    }
    ByteBuffer values = ByteBuffer.allocate(count * Float.BYTES).order(ByteOrder.LITTLE_ENDIAN);
    for (int i = 0; i < count; i++) {
      seed = seed * 1664525 + 1013904223;
      float x = seed * 0x1p-33f;
      int token = i / HIDDEN;
      boolean silent = name.contains("embed") && (token < 32 || token > 126);
      values.putFloat(silent ? 0 : shape.length == 1 ? x + 1 : x); // norms are about 1
    }
    entry.withArray("data_offsets").add(data.size()).add(data.size() + values.capacity());
    data.writeBytes(values.array());
  }
}
