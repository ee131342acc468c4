// kvgear-decode-bench: the decode loop of a transformer of a known shape, random weights in fp16 in all
// layers, products by cuBLAS, the cache and attention by kvgear through its C interface. For each
// recipe the largest batch that a memory budget allows, tokens per second, peak memory of the device,
// and bytes by part.
//
//   kvgear-decode-bench [--model llama2-7b|llama3-8b] [--memory-budget GB] [--prompt N]
//                       [--generate N] [--recipes A,B] [--batch N]
//
// The budget (24; 0 = the whole card) is for weights, activations and caches together. Keys and values
// of the prompt are random and appended, not computed: only the decode loop is timed. No line is
// scaled from fewer layers or tokens.
#include <cublas_v2.h>
#include <cuda_runtime.h>
#include <kvgear/kvgear.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "tests/gpu/copy_kernel.h"
#include "tests/gpu/decode_kernels.cuh"

namespace decode {
namespace {

struct ModelShape {
  const char* name;
  uint32_t layers, hidden, q_heads, kv_heads, head_dim, inner, vocabulary;
  uint32_t q_width() const { return q_heads * head_dim; }
  uint32_t kv_width() const { return kv_heads * head_dim; }
  uint32_t row() const { return q_width() + 2 * kv_width(); }
};
constexpr ModelShape kModels[] = {{"llama2-7b", 32, 4096, 32, 32, 128, 11008, 32000},
                                  {"llama3-8b", 32, 4096, 32, 8, 128, 14336, 128256}};

struct Settings {
  const ModelShape* model = &kModels[0];
  double budget = 24e9;  // bytes; 0 = all there is
  uint32_t prompt = 1000, generate = 500, batch = 0;
  std::vector<std::string> recipes = {"fp16", "kivi-2", "gear-4", "gear-2", "gear-l-2"};
};

[[noreturn]] void Die(const char* what, const char* why) {
  std::fprintf(stderr, "kvgear-decode-bench: %s: %s\n", what, why);
  std::exit(1);
}
void Check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) Die(what, cudaGetErrorString(error));
}
void Check(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS) Die(what, cublasGetStatusString(status));
}
void Check(kvg_status status, const kvg_error& error) {
  if (status != KVG_OK) Die(kvg_status_string(status), error.message);
}

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

size_t FreeBytes() {
  size_t free = 0, total = 0;
  Check(cudaMemGetInfo(&free, &total), "memory");
  return free;
}

// Device memory of the caches, with a limit that holds to the byte.
struct Slabs {
  uint64_t limit = 0, held = 0, peak = 0;
  kvg_allocator Table() {
    kvg_allocator table;
    kvg_allocator_init(&table);
    table.user = this;
    table.alloc = [](void* user, size_t size, size_t) -> void* {
      auto& self = *static_cast<Slabs*>(user);
      void* slab = nullptr;
      if (self.held + size > self.limit) return nullptr;
      if (cudaMalloc(&slab, size) != cudaSuccess) {
        cudaGetLastError();
        return nullptr;
      }
      self.held += size;
      self.peak = std::max(self.peak, self.held);
      return slab;
    };
    table.release = [](void* user, void* slab, size_t size, size_t) {
      static_cast<Slabs*>(user)->held -= size;
      cudaFree(slab);
    };
    return table;
  }
};

struct Half {
  __half* data = nullptr;
  explicit Half(uint64_t count) { Check(cudaMalloc(&data, count * 2), "cudaMalloc"); }
  Half(Half&& other) noexcept : data(std::exchange(other.data, nullptr)) {}
  Half(const Half&) = delete;
  Half& operator=(const Half&) = delete;
  ~Half() { cudaFree(data); }
};

Half Random(uint64_t count, uint64_t seed, float deviation) {
  Half x(count);
  RandomKernel<<<2048, 256>>>(x.data, count, seed, deviation);
  Check(cudaGetLastError(), "random");
  return x;
}

struct Layer {
  Half qkv, out, gate_up, down;
};

class Model {
 public:
  explicit Model(const ModelShape& shape)
      : shape_(shape),
        embedding_(Random(uint64_t{shape.vocabulary} * shape.hidden, 1, 1)),
        head_(Random(uint64_t{shape.vocabulary} * shape.hidden, 2, Deviation(shape.hidden))) {
    const uint64_t hidden = shape.hidden;
    for (uint32_t i = 0; i < shape.layers; ++i) {
      // Small updates of the residual stream, as trained models have: nothing grows beyond fp16.
      layers_.push_back(
          {Random(hidden * shape.row(), 10 * i + 3, Deviation(hidden)),
           Random(hidden * shape.q_width(), 10 * i + 4, 0.2f * Deviation(shape.q_width())),
           Random(2 * hidden * shape.inner, 10 * i + 5, Deviation(hidden)),
           Random(hidden * shape.inner, 10 * i + 6, 0.2f * Deviation(shape.inner))});
    }
    Check(cublasCreate(&blas_), "cuBLAS");
    Check(cudaMalloc(&workspace_, kWorkspace), "cudaMalloc");
    Check(cublasSetWorkspace(blas_, workspace_, kWorkspace), "cuBLAS");
  }
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;
  ~Model() {
    cublasDestroy(blas_);
    cudaFree(workspace_);
  }

  const ModelShape& shape() const { return shape_; }
  const Layer& layer(uint32_t i) const { return layers_[i]; }
  const Half& embedding() const { return embedding_; }
  const Half& head() const { return head_; }
  void SetStream(cudaStream_t stream) { Check(cublasSetStream(blas_, stream), "cuBLAS"); }

  // y[rows][outputs] = x[rows][inputs] * weights[outputs][inputs]^T, added to y if `add`.
  void Product(const Half& weights, const __half* x, __half* y, uint32_t rows, uint32_t inputs,
               uint32_t outputs, bool add) {
    const float one = 1, beta = add ? 1.0f : 0.0f;
    Check(cublasGemmEx(blas_, CUBLAS_OP_T, CUBLAS_OP_N, static_cast<int>(outputs),
                       static_cast<int>(rows), static_cast<int>(inputs), &one, weights.data,
                       CUDA_R_16F, static_cast<int>(inputs), x, CUDA_R_16F, static_cast<int>(inputs),
                       &beta, y, CUDA_R_16F, static_cast<int>(outputs), CUBLAS_COMPUTE_32F,
                       CUBLAS_GEMM_DEFAULT),
          "product");
  }

 private:
  static constexpr size_t kWorkspace = size_t{32} << 20;
  static float Deviation(uint64_t inputs) { return 1 / std::sqrt(static_cast<float>(inputs)); }
  const ModelShape& shape_;
  Half embedding_, head_;
  std::vector<Layer> layers_;
  cublasHandle_t blas_ = nullptr;
  void* workspace_ = nullptr;
};

enum Parts : uint32_t { kProducts = 1, kAppend = 2, kAttend = 4, kAll = 7 };

// The caches of a batch and the activations of a step.
class Decoder {
 public:
  Decoder(Model& model, kvg_runtime* runtime, const kvg_plan* plan, uint32_t batch, const Half& k,
          const Half& v, cudaStream_t stream)
      : model_(model),
        stream_(stream),
        batch_(batch),
        k_(k),
        v_(v),
        x_(Random(uint64_t{batch} * model.shape().hidden, 7, 1)),
        normed_(uint64_t{batch} * model.shape().hidden),
        qkv_(uint64_t{batch} * model.shape().row()),
        attended_(uint64_t{batch} * model.shape().q_width()),
        wide_(uint64_t{batch} * 2 * model.shape().inner),
        gated_(uint64_t{batch} * model.shape().inner),
        logits_(uint64_t{batch} * model.shape().vocabulary) {
    model_.SetStream(stream);
    Check(cudaDeviceSynchronize(), "activations");  // made on another stream
    kvg_error error;
    for (uint32_t i = 0; i < batch; ++i) {
      kvg_cache* cache = nullptr;
      Check(kvg_cache_create(runtime, plan, &cache, &error), error);
      caches_.push_back(cache);
    }
    list_.assign(caches_.begin(), caches_.end());
  }
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;
  ~Decoder() {
    for (kvg_cache* cache : caches_) kvg_cache_destroy(cache);
  }

  // False: there is no memory for it.
  bool AppendPrompt(uint32_t tokens) {
    for (uint32_t layer = 0; layer < model_.shape().layers; ++layer) {
      for (kvg_cache* cache : caches_) {
        for (uint32_t at = 0; at < tokens; at += kPromptAtOnce) {
          if (!Append(cache, layer, k_.data, v_.data, std::min(kPromptAtOnce, tokens - at))) return false;
        }
      }
    }
    position_ += tokens;
    return true;
  }
  // Tokens one at a time without the model, for their memory.
  bool AppendTokens(uint32_t tokens) {
    Check(cudaMemsetAsync(qkv_.data, 0x31, uint64_t{batch_} * model_.shape().row() * 2, stream_), "fill");
    for (uint32_t t = 0; t < tokens; ++t) {
      for (uint32_t layer = 0; layer < model_.shape().layers; ++layer) {
        if (!AppendStep(layer)) return false;
      }
    }
    return true;
  }

  // One token of each sequence. `parts` leaves some of the work out, to see what the rest takes.
  bool Step(uint32_t parts = kAll) {
    const ModelShape& s = model_.shape();
    const uint32_t row = s.row();
    for (uint32_t l = 0; l < s.layers; ++l) {
      const Layer& layer = model_.layer(l);
      if (parts & kProducts) {
        NormKernel<<<batch_, 512, 0, stream_>>>(x_.data, normed_.data, s.hidden);
        model_.Product(layer.qkv, normed_.data, qkv_.data, batch_, s.hidden, row, false);
        RotateKernel<<<dim3(batch_, s.q_heads + s.kv_heads), 64, 0, stream_>>>(
            qkv_.data, row, s.head_dim, position_);
      }
      if ((parts & kAppend) && !AppendStep(l)) return false;
      if ((parts & kAttend) && !Attend(l)) return false;
      if (parts & kProducts) {
        model_.Product(layer.out, attended_.data, x_.data, batch_, s.q_width(), s.hidden, true);
        NormKernel<<<batch_, 512, 0, stream_>>>(x_.data, normed_.data, s.hidden);
        model_.Product(layer.gate_up, normed_.data, wide_.data, batch_, s.hidden, 2 * s.inner, false);
        GateKernel<<<dim3((s.inner + 255) / 256, batch_), 256, 0, stream_>>>(wide_.data, gated_.data,
                                                                            s.inner);
        model_.Product(layer.down, gated_.data, x_.data, batch_, s.inner, s.hidden, true);
      }
    }
    if (parts & kProducts) {
      NormKernel<<<batch_, 512, 0, stream_>>>(x_.data, normed_.data, s.hidden);
      model_.Product(model_.head(), normed_.data, logits_.data, batch_, s.hidden, s.vocabulary, false);
      NextKernel<<<batch_, 1024, 0, stream_>>>(logits_.data, s.vocabulary, model_.embedding().data,
                                               x_.data, s.hidden);
      Check(cudaGetLastError(), "step");
    }
    if (parts & kAppend) ++position_;
    return true;
  }

  // Seconds of one of `steps` steps, to the end of the work; below 0: no memory.
  double Time(uint32_t steps, uint32_t parts) {
    Check(cudaStreamSynchronize(stream_), "work");
    const double begin = Now();
    for (uint32_t i = 0; i < steps; ++i) {
      if (!Step(parts)) return -1;
    }
    Check(cudaStreamSynchronize(stream_), "work");
    return (Now() - begin) / steps;
  }

  kvg_stats Stats() const {  // of the first cache; all are of one length
    kvg_stats stats;
    kvg_stats_init(&stats);
    kvg_error error;
    Check(kvg_cache_stats(caches_[0], KVG_ALL_LAYERS, KVG_SIDE_BOTH, &stats, &error), error);
    return stats;
  }

  static constexpr uint32_t kPromptAtOnce = 4096;

 private:
  bool Append(kvg_cache* cache, uint32_t layer, const __half* k, const __half* v, uint32_t tokens) {
    kvg_append_desc desc;
    kvg_append_desc_init(&desc);
    desc.tokens = tokens;
    desc.stream = stream_;
    const size_t bytes = size_t{tokens} * model_.shape().kv_width() * 2;
    kvg_error error;
    const kvg_status status = kvg_cache_append(cache, layer, k, bytes, v, bytes, &desc, &error);
    if (status == KVG_E_NOMEM || status == KVG_E_LIMIT) return false;
    Check(status, error);
    return true;
  }

  // The keys and values of a step, one token of each sequence.
  bool AppendStep(uint32_t layer) {
    const ModelShape& s = model_.shape();
    kvg_append_desc desc;
    kvg_append_desc_init(&desc);
    desc.tokens = 1;
    desc.k_token_stride = desc.v_token_stride = s.row();
    desc.k_head_stride = desc.v_head_stride = s.head_dim;
    desc.k_dim_stride = desc.v_dim_stride = 1;
    desc.stream = stream_;
    const __half* const k = qkv_.data + s.q_width();
    const size_t bytes = uint64_t{batch_} * s.row() * 2;
    kvg_error error;
    const kvg_status status = kvg_cache_append_batch(
        caches_.data(), caches_.size(), layer, k, bytes - s.q_width() * 2, k + s.kv_width(),
        bytes - (s.q_width() + s.kv_width()) * 2, &desc, &error);
    if (status == KVG_E_NOMEM || status == KVG_E_LIMIT) return false;
    Check(status, error);
    return true;
  }

  bool Attend(uint32_t layer) {
    const ModelShape& s = model_.shape();
    kvg_attend_desc desc;
    kvg_attend_desc_init(&desc);
    desc.q_token_stride = s.row();
    desc.q_head_stride = s.head_dim;
    desc.stream = stream_;
    kvg_error error;
    const kvg_status status = kvg_cache_attend_batch(
        list_.data(), list_.size(), layer, qkv_.data, uint64_t{batch_} * s.row() * 2,
        attended_.data, uint64_t{batch_} * s.q_width() * 2, &desc, &error);
    if (status == KVG_E_NOMEM || status == KVG_E_LIMIT) return false;
    Check(status, error);
    return true;
  }

  Model& model_;
  const cudaStream_t stream_;
  const uint32_t batch_;
  const Half &k_, &v_;
  Half x_, normed_, qkv_, attended_, wide_, gated_, logits_;
  std::vector<kvg_cache*> caches_;
  std::vector<const kvg_cache*> list_;
  uint32_t position_ = 0;
};

// Bytes of activations that each sequence takes.
uint64_t ActivationBytes(const ModelShape& s) {
  return 2 * (uint64_t{s.hidden} * 2 + s.row() + s.q_width() + uint64_t{s.inner} * 3 + s.vocabulary);
}

struct Bench {
  const Settings& settings;
  Model& model;
  const Half &k, &v;
  const cudaStream_t stream;
  const size_t free_at_start;
  const double copy_rate;  // bytes a second, read and written
  double fp16_rate = 0;    // tokens per second
  double fp16_cache = 0;   // bytes of caches for each token

  double GB(double bytes) const { return bytes * 1e-9; }

  struct Runtime {
    Slabs slabs;
    kvg_runtime* runtime = nullptr;
    explicit Runtime(uint64_t limit) {
      slabs.limit = limit;
      const kvg_allocator table = slabs.Table();
      kvg_runtime_options options;
      kvg_runtime_options_init(&options);
      options.device = KVG_CUDA;
      options.device_allocator = &table;
      kvg_error error;
      Check(kvg_runtime_create(&options, &runtime, &error), error);
    }
    Runtime(const Runtime&) = delete;
    Runtime& operator=(const Runtime&) = delete;
    ~Runtime() { kvg_runtime_destroy(runtime); }
  };

  // False: the batch does not fit.
  bool Try(const std::string& recipe, const kvg_plan* plan, uint32_t batch, uint64_t limit) {
    Runtime runtime(limit);
    Decoder decoder(model, runtime.runtime, plan, batch, k, v, stream);
    if (!decoder.AppendPrompt(settings.prompt)) return false;
    const uint32_t half = settings.generate / 2;
    if (!decoder.Step()) return false;
    const double first = decoder.Time(half, kAll);
    if (first < 0) return false;
    const double attention = decoder.Time(5, kAttend);
    const double products = decoder.Time(5, kProducts);
    const kvg_stats middle = decoder.Stats();
    const uint32_t rest = settings.generate - half - 1;
    const double second = decoder.Time(rest, kAll);
    if (second < 0) return false;
    const size_t lowest_free = FreeBytes();
    const double step = (first * half + second * rest) / (half + rest);
    const kvg_stats stats = decoder.Stats();
    const double rate = batch / step, cache = static_cast<double>(stats.bytes_total) / static_cast<double>(stats.tokens);
    if (recipe == "fp16") {
      fp16_rate = rate;
      fp16_cache = cache;
    }
    std::printf("%-9s %5u %9.1f %6.2fx %8.2f %9.2f %9.2f %8.2f %8.2f %6.2fx\n", recipe.c_str(), batch, rate,
                fp16_rate > 0 ? rate / fp16_rate : 0.0, 1e3 * step, 1e3 * attention, 1e3 * products,
                GB(static_cast<double>(free_at_start - lowest_free)),
                GB(static_cast<double>(stats.bytes_total) * batch), fp16_cache > 0 ? fp16_cache / cache : 0.0);
    if (recipe == "fp16") {
      // Had attention run at the rate of a plain copy, which no kernel beats.
      const double least = static_cast<double>(middle.bytes_total) * batch / copy_rate;
      std::printf("%-9s %5u %9.1f         %8.2f %9.2f   (fp16 attention at the copy rate, if the step is bound by it)\n",
                  "fp16*", batch, batch / (step - attention + least), 1e3 * (step - attention + least),
                  1e3 * least);
    }
    const auto share = [&](uint64_t bytes) {
      return 8.0 * static_cast<double>(bytes) / static_cast<double>(stats.elements);
    };
    std::printf("          bits per element: %.2f = codes %.2f, scales %.2f, low rank %.2f, sparse %.2f, window %.2f, bookkeeping %.2f\n",
                share(stats.bytes_total), share(stats.bytes_codes), share(stats.bytes_scales),
                share(stats.bytes_low_rank), share(stats.bytes_sparse),
                share(stats.bytes_window_allocated), share(stats.bytes_bookkeeping));
    std::fflush(stdout);
    return true;
  }

  void Run(const std::string& recipe) {
    const ModelShape& s = model.shape();
    kvg_shape shape;
    kvg_shape_init(&shape);
    shape.layers = s.layers;
    shape.q_heads = s.q_heads;
    shape.kv_heads = s.kv_heads;
    shape.head_dim = s.head_dim;
    kvg_plan* plan = nullptr;
    kvg_error error;
    Check(kvg_plan_create(&shape, recipe.c_str(), &plan, &error), error);
    const double used = static_cast<double>(free_at_start - FreeBytes());
    const double budget = settings.budget > 0 ? settings.budget : static_cast<double>(free_at_start) - 1e9;
    const double left = budget - used - 128e6;  // what CUDA takes for itself
    uint32_t batch = settings.batch;
    uint64_t one = 0;
    if (left > 0 && batch == 0) {
      // One sequence, to its last token: what it takes for itself, scratch left aside.
      Runtime runtime(static_cast<uint64_t>(left));
      Decoder decoder(model, runtime.runtime, plan, 1, k, v, stream);
      if (decoder.AppendPrompt(settings.prompt) && decoder.AppendTokens(settings.generate)) {
        Check(cudaStreamSynchronize(stream), "work");
        Check(kvg_runtime_memory(runtime.runtime, &one, &error), error);
        // Slabs are 64 MiB; a prompt is staged and sealed by way of scratch memory.
        batch = static_cast<uint32_t>((left - 192e6) / static_cast<double>(one + ActivationBytes(s)));
      }
    }
    for (; batch > 0; batch -= std::max(1u, batch / 50)) {
      const double limit = left - static_cast<double>(batch) * static_cast<double>(ActivationBytes(s));
      if (limit > 0 && Try(recipe, plan, batch, static_cast<uint64_t>(limit))) break;
    }
    if (batch == 0) std::printf("%-9s not one sequence fits\n", recipe.c_str());
    kvg_plan_destroy(plan);
  }
};

double CopyRate() {
  constexpr uint64_t bytes = 1ull << 30;
  const Half a(bytes / 2), b(bytes / 2);
  double best = 0;
  for (int i = 0; i < 6; ++i) {
    Check(cudaDeviceSynchronize(), "copy");
    const double begin = Now();
    for (int n = 0; n < 8; ++n) Check(kvg::gpu_test::LaunchCopy(a.data, b.data, bytes, nullptr), "copy");
    Check(cudaDeviceSynchronize(), "copy");
    best = std::max(best, 8 * 2 * static_cast<double>(bytes) / (Now() - begin));
  }
  return best;
}

Settings Parse(int argc, char** argv) {
  Settings settings;
  std::map<std::string, std::string> given;
  for (int i = 1; i + 1 < argc; i += 2) given[argv[i]] = argv[i + 1];
  if (argc % 2 == 0) Die("arguments", "each flag needs a value");
  for (const auto& [flag, value] : given) {
    if (flag == "--model") {
      settings.model = nullptr;
      for (const ModelShape& model : kModels) {
        if (value == model.name) settings.model = &model;
      }
      if (settings.model == nullptr) Die("--model", "there are llama2-7b and llama3-8b");
    } else if (flag == "--memory-budget") {
      settings.budget = std::strtod(value.c_str(), nullptr) * 1e9;
    } else if (flag == "--prompt") {
      settings.prompt = static_cast<uint32_t>(std::strtoul(value.c_str(), nullptr, 10));
    } else if (flag == "--generate") {
      settings.generate = std::max(4u, static_cast<uint32_t>(std::strtoul(value.c_str(), nullptr, 10)));
    } else if (flag == "--batch") {
      settings.batch = static_cast<uint32_t>(std::strtoul(value.c_str(), nullptr, 10));
    } else if (flag == "--recipes") {
      settings.recipes.clear();
      for (size_t at = 0; at <= value.size();) {
        const size_t end = std::min(value.find(',', at), value.size());
        settings.recipes.push_back(value.substr(at, end - at));
        at = end + 1;
      }
    } else {
      Die(flag.c_str(), "there are --model, --memory-budget, --prompt, --generate, --batch, --recipes");
    }
  }
  return settings;
}

int Main(int argc, char** argv) {
  const Settings settings = Parse(argc, argv);
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::puts("skipped: no CUDA device");
    return 0;
  }
  Check(cudaFree(nullptr), "device");
  const size_t free_at_start = FreeBytes();
  const double rate = CopyRate();
  cudaStream_t stream;
  Check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
  Model model(*settings.model);
  const uint64_t some = uint64_t{Decoder::kPromptAtOnce} * model.shape().kv_width();
  const Half k = Random(some, 8, 1), v = Random(some, 9, 1);
  Check(cudaDeviceSynchronize(), "weights");
  cudaDeviceProp properties;
  Check(cudaGetDeviceProperties(&properties, 0), "device");
  std::printf("%s, copy rate %.0f GB/s; %s, %u layers; prompt %u, %u generated; budget %.0f GB, of which weights %.2f\n",
              properties.name, rate * 1e-9, model.shape().name, model.shape().layers, settings.prompt,
              settings.generate, settings.budget * 1e-9, static_cast<double>(free_at_start - FreeBytes()) * 1e-9);
  std::printf("%-9s %5s %9s %7s %8s %9s %9s %8s %8s %7s\n", "recipe", "batch", "tokens/s", "of fp16", "step ms",
              "attend", "products", "peak GB", "cache GB", "smaller");
  Bench bench{settings, model, k, v, stream, free_at_start, rate};
  for (const std::string& recipe : settings.recipes) bench.Run(recipe);
  Check(cudaStreamDestroy(stream), "stream");
  return 0;
}

}  // namespace
}  // namespace decode

int main(int argc, char** argv) { return decode::Main(argc, argv); }
