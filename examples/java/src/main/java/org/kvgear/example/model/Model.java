package org.kvgear.example.model;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import org.kvgear.Shape;

/**
 * The weights of a small Llama-shaped decoder whose tokens are bytes. Everything of it is computed here but attention over the cache,
 * which is kvgear's. It does not change; any number of threads may use it.
 */
public final class Model {
  final int vocab;
  final int hidden;
  final int wide;
  final int layerCount;
  final int qHeads;
  final int kvHeads;
  final int headDim;
  final float epsilon;
  private final int positions;
  private final String name;

  final float[] embedding; // [vocab, hidden]
  final float[] finalNorm;
  final Matrix head;
  final Layer[] layers;
  private final float[] cosines; // [positions, head_dim / 2]
  private final float[] sines;

  /** qkv: queries, then keys, then values. gateUp: gates, then what they let through. */
  record Layer(float[] attentionNorm, Matrix qkv, Matrix output, float[] mlpNorm, Matrix gateUp, Matrix down) {}

  /**
   * Reads config.json and model.safetensors of a folder.
   *
   * @param folder the folder
   * @throws IOException with a sentence, where they are not there or hold something else
   */
  public Model(Path folder) throws IOException {
    Path file = folder.resolve("config.json");
    JsonNode config;
    try {
      config = new ObjectMapper().readTree(Files.readAllBytes(file));
    } catch (JsonProcessingException e) {
      throw new IOException(file + " is no JSON: " + e.getOriginalMessage(), e);
    }
    if (!config.path("model_type").asText().equals("llama")
        || config.path("attention_bias").asBoolean()
        || config.path("use_sliding_window").asBoolean()
        || !config.path("rope_scaling").isMissingNode() && !config.path("rope_scaling").isNull()
        || config.path("vocab_size").asInt() != 256) {
      throw new IOException(folder + " is not a Llama model over bytes, with plain rotary embedding, without biases and sliding window");
    }
    Path absolute = folder.toAbsolutePath().normalize();
    name = String.valueOf(absolute.getFileName());
    vocab = 256;
    hidden = size(config, "hidden_size", file);
    wide = size(config, "intermediate_size", file);
    layerCount = size(config, "num_hidden_layers", file);
    qHeads = size(config, "num_attention_heads", file);
    kvHeads = size(config, "num_key_value_heads", file);
    headDim = size(config, "head_dim", file);
    positions = size(config, "max_position_embeddings", file);
    epsilon = (float) config.path("rms_norm_eps").asDouble();
    if (qHeads % kvHeads != 0) {
      throw new IOException(file + ": " + qHeads + " query heads cannot share " + kvHeads + " key/value heads");
    }

    Tensors tensors = Tensors.open(folder.resolve("model.safetensors"));
    embedding = tensors.get("model.embed_tokens.weight", vocab, hidden);
    finalNorm = tensors.get("model.norm.weight", hidden);
    boolean tied = config.path("tie_word_embeddings").asBoolean();
    head = new Matrix(hidden, tied ? embedding : tensors.get("lm_head.weight", vocab, hidden));
    layers = new Layer[layerCount];
    for (int i = 0; i < layerCount; i++) {
      String prefix = "model.layers." + i + ".";
      layers[i] =
          new Layer(
              tensors.get(prefix + "input_layernorm.weight", hidden),
              new Matrix(
                  hidden,
                  tensors.get(prefix + "self_attn.q_proj.weight", qWidth(), hidden),
                  tensors.get(prefix + "self_attn.k_proj.weight", kvWidth(), hidden),
                  tensors.get(prefix + "self_attn.v_proj.weight", kvWidth(), hidden)),
              new Matrix(qWidth(), tensors.get(prefix + "self_attn.o_proj.weight", hidden, qWidth())),
              tensors.get(prefix + "post_attention_layernorm.weight", hidden),
              new Matrix(
                  hidden,
                  tensors.get(prefix + "mlp.gate_proj.weight", wide, hidden),
                  tensors.get(prefix + "mlp.up_proj.weight", wide, hidden)),
              new Matrix(wide, tensors.get(prefix + "mlp.down_proj.weight", hidden, wide)));
    }

    double theta = config.path("rope_theta").asDouble(10000);
    int half = headDim / 2;
    cosines = new float[positions * half];
    sines = new float[positions * half];
    for (int i = 0; i < half; i++) {
      double frequency = Math.pow(theta, -2.0 * i / headDim);
      for (int position = 0; position < positions; position++) {
        cosines[position * half + i] = (float) Math.cos(position * frequency);
        sines[position * half + i] = (float) Math.sin(position * frequency);
      }
    }
  }

  private static int size(JsonNode config, String key, Path file) throws IOException {
    int size = config.path(key).asInt();
    if (size <= 0 || size > 1 << 20) {
      throw new IOException(file + ": " + key + " is " + config.path(key) + ", which is no size");
    }
    return size;
  }

  /**
   * What a kvgear plan for the model needs.
   *
   * @return the shape
   */
  public Shape shape() {
    return new Shape(layerCount, qHeads, kvHeads, headDim);
  }

  /**
   * Most tokens of a text.
   *
   * @return the number
   */
  public int positions() {
    return positions;
  }

  /**
   * The name of its folder.
   *
   * @return the name
   */
  public String name() {
    return name;
  }

  int qWidth() {
    return qHeads * headDim;
  }

  int kvWidth() {
    return kvHeads * headDim;
  }

  /** Turns the heads of one token by the angles of its position; pairs are i and i + head_dim / 2. */
  void rotate(float[] x, int at, int heads, int position) {
    int half = headDim / 2;
    int angle = position * half;
    for (int h = 0; h < heads; h++) {
      for (int i = 0; i < half; i++) {
        int p = at + h * headDim + i;
        float a = x[p];
        float b = x[p + half];
        x[p] = a * cosines[angle + i] - b * sines[angle + i];
        x[p + half] = b * cosines[angle + i] + a * sines[angle + i];
      }
    }
  }
}
