// See cache_fixture.h.
#include "tests/support/cache_fixture.h"

#include <algorithm>
#include <cmath>

#include "kernels/half.h"

namespace kvg::test {

void Must(const absl::Status& status) {
  if (!status.ok()) throw std::runtime_error(status.ToString());
}

AllocatorTable CountingAllocator::table() { return {this, &Alloc, &Release}; }

void* CountingAllocator::Alloc(void* self, size_t size, size_t alignment) {
  auto* counter = static_cast<CountingAllocator*>(self);
  if (counter->count_++ >= counter->fail_from_) return nullptr;
  void* ptr = counter->system_.alloc(counter->system_.user, size, alignment);
  if (ptr != nullptr) counter->live_ += size;
  return ptr;
}

void CountingAllocator::Release(void* self, void* ptr, size_t size, size_t alignment) {
  auto* counter = static_cast<CountingAllocator*>(self);
  counter->live_ -= size;
  counter->system_.release(counter->system_.user, ptr, size, alignment);
}

std::shared_ptr<Runtime> MakeRuntime(uint32_t threads, uint64_t budget,
                                     CountingAllocator* allocator) {
  RuntimeOptions options;
  options.threads = threads;
  options.memory_budget = budget;
  if (allocator != nullptr) options.allocator = allocator->table();
  return Value(Runtime::Create(options));
}

Recipe MakeRecipe(const std::string& text) { return Value(ParseRecipe(text)); }

std::vector<std::string> RecipeNames() {
  std::vector<std::string> names;
  for (uint32_t i = 0; i < RecipeCount(); ++i) {
    const Recipe recipe = MakeRecipe(RecipeName(i));
    const bool learns =
        recipe.k.learns() || recipe.v.learns();
    if (!learns) names.emplace_back(RecipeName(i));
  }
  return names;
}

std::unique_ptr<Cache> MakeCache(const Shape& shape, const std::string& recipes,
                                 std::shared_ptr<Runtime> runtime) {
  return Value(Cache::Create(std::move(runtime), Value(Plan::Create(shape, recipes))));
}

std::vector<uint16_t> ToF16(const Tensor& x) {
  std::vector<uint16_t> out(x.data.size());
  std::transform(x.data.begin(), x.data.end(), out.begin(),
                 [](double v) { return F32ToF16(static_cast<float>(v)); });
  return out;
}

std::vector<float> ToF32(const Tensor& x) { return {x.data.begin(), x.data.end()}; }

absl::Status TryAppend(Cache& cache, uint32_t layer, const Tensor& k, const Tensor& v) {
  const std::vector<uint16_t> k16 = ToF16(k), v16 = ToF16(v);
  const TensorView k_view{.data = k16.data(), .bytes = k16.size() * 2};
  const TensorView v_view{.data = v16.data(), .bytes = v16.size() * 2};
  return cache.Append(layer, k_view, v_view, ops::kF16, k.tokens);
}

void Append(Cache& cache, uint32_t layer, const Tensor& k, const Tensor& v) {
  Must(TryAppend(cache, layer, k, v));
}

void AppendParts(Cache& cache, uint32_t layer, const Tensor& k, const Tensor& v,
                 const std::vector<uint64_t>& parts) {
  size_t first = 0;
  for (uint64_t tokens : parts) {
    Append(cache, layer, k.Tokens(first, tokens), v.Tokens(first, tokens));
    first += tokens;
  }
  if (first != k.tokens)
    throw std::runtime_error("AppendParts: the parts miss the tensor's length");
}

SingleLayer::SingleLayer(const Shape& shape, const std::string& recipe,
                         std::shared_ptr<Runtime> runtime)
    : runtime_(std::move(runtime)),
      shape_(shape),
      recipe_(Value(Plan::Create(shape, recipe))->recipe(0)),
      layer_(&runtime_->resource()) {
  layer_.Init(*runtime_, shape_, recipe_, 0);
}

absl::Status SingleLayer::TryAppend(const Tensor& k, const Tensor& v) {
  const std::vector<uint16_t> k16 = ToF16(k), v16 = ToF16(v);
  ops::IngestArgs args{};
  args.dtype = ops::kF16;
  args.token_stride = static_cast<int64_t>(shape_.kv_dim());
  args.head_stride = shape_.head_dim;
  args.dim_stride = 1;
  args.tokens = k.tokens;
  args.kv_heads = shape_.kv_heads;
  args.head_dim = shape_.head_dim;
  ops::IngestArgs args_v = args;
  args.x = k16.data();
  args_v.x = v16.data();
  Turn turn(*runtime_);
  return layer_.Append(*runtime_, turn, args, args_v);
}

Tensor SingleLayer::Read(ops::Side side) const {
  Tensor out(layer_.length(), shape_.kv_heads, shape_.head_dim);
  std::vector<float> buffer(out.data.size());
  ops::ReadArgs args{};
  const PieceList list = pieces(side);
  args.side = list.sequence();
  args.kv_heads = shape_.kv_heads;
  args.head_dim = shape_.head_dim;
  args.tokens = out.tokens;
  args.dtype = ops::kF32;
  args.out = buffer.data();
  if (out.tokens > 0) runtime_->table().read(&args);
  std::copy(buffer.begin(), buffer.end(), out.data.begin());
  return out;
}

uint64_t Length(const Cache& cache, uint32_t layer) { return Value(cache.Length(layer)); }

Tensor Read(const Cache& cache, ops::Side side, uint32_t layer) {
  return ReadRange(cache, side, layer, 0, Value(cache.Held(layer)));
}

Tensor ReadRange(const Cache& cache, ops::Side side, uint32_t layer, uint64_t first,
                 uint64_t tokens) {
  const Shape& shape = cache.plan().shape();
  Tensor out(tokens, shape.kv_heads, shape.head_dim);
  std::vector<float> buffer(out.data.size());
  Must(cache.Read(layer, side, first, tokens, ops::kF32, buffer.data(), buffer.size() * 4));
  std::copy(buffer.begin(), buffer.end(), out.data.begin());
  return out;
}

absl::StatusOr<Tensor> TryAttend(const Cache& cache, uint32_t layer, const Tensor& q,
                                 AttendOptions options) {
  const std::vector<float> in = ToF32(q);
  std::vector<float> result(in.size());
  options.q_dtype = options.out_dtype = ops::kF32;
  options.queries = static_cast<uint32_t>(q.tokens);
  KVG_RETURN_IF_ERROR(
      cache.Attend(layer, in.data(), in.size() * 4, result.data(), result.size() * 4, options));
  Tensor out(q.tokens, q.heads, q.dim);
  std::copy(result.begin(), result.end(), out.data.begin());
  return out;
}

Tensor Attend(const Cache& cache, uint32_t layer, const Tensor& q, AttendOptions options) {
  return Value(TryAttend(cache, layer, q, options));
}

std::vector<double> Content(const Cache& cache, uint32_t layer) {
  std::vector<double> content = Read(cache, ops::kSideK, layer).data;
  const std::vector<double> v = Read(cache, ops::kSideV, layer).data;
  content.insert(content.end(), v.begin(), v.end());
  return content;
}

uint64_t Random::Next() {
  uint64_t z = state_ += 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

double Random::Uniform() { return static_cast<double>(Next() >> 11) * 0x1p-53; }

double Random::Normal() {
  double sum = -6;
  for (int i = 0; i < 12; ++i) sum += Uniform();
  return sum;
}

Tensor NoiseTensor(uint64_t seed, size_t tokens, size_t heads, size_t dim, double deviation) {
  Random random(seed);
  Tensor x(tokens, heads, dim);
  for (double& v : x.data) v = oracle::RoundToF16(deviation * random.Normal());
  return x;
}

Tensor RealisticTensor(uint64_t seed, size_t tokens, size_t heads, size_t dim, size_t spike_every) {
  Random random(seed);
  Tensor x(tokens, heads, dim);
  std::vector<double> offset(heads * dim), gain(heads * dim), drift(heads);
  for (size_t i = 0; i < offset.size(); ++i) {
    offset[i] = random.Normal() * (i % 17 == 3 ? 8 : 0.5);
    gain[i] = random.Normal();
  }
  for (size_t t = 0; t < tokens; ++t) {
    for (size_t h = 0; h < heads; ++h) {
      drift[h] = 0.95 * drift[h] + 0.3 * random.Normal();
      for (size_t d = 0; d < dim; ++d) {
        double v = offset[h * dim + d] + gain[h * dim + d] * drift[h] + 0.4 * random.Normal();
        if (spike_every != 0 && random.Next() % spike_every == 0) v *= 10;
        x(t, h, d) = oracle::RoundToF16(v);
      }
    }
  }
  return x;
}

Tensor Rounded(Tensor x) {
  for (double& v : x.data) v = oracle::RoundToF16(v);
  return x;
}

Tensor Joined(const Tensor& a, const Tensor& b) {
  Tensor out = a;
  out.tokens += b.tokens;
  out.data.insert(out.data.end(), b.data.begin(), b.data.end());
  return out;
}

double Distance(const Tensor& a, const Tensor& b) {
  double sum = 0;
  for (size_t i = 0; i < a.data.size(); ++i) {
    sum += (a.data[i] - b.data[i]) * (a.data[i] - b.data[i]);
  }
  return std::sqrt(sum);
}

double MaxDistance(const Tensor& a, const Tensor& b) {
  double most = 0;
  for (size_t i = 0; i < a.data.size(); ++i) {
    const double distance = std::abs(a.data[i] - b.data[i]);
    if (std::isnan(distance)) return distance;
    most = std::max(most, distance);
  }
  return most;
}

double MaxAbs(const Tensor& x) {
  double most = 0;
  for (double v : x.data) most = std::max(most, std::abs(v));
  return most;
}

bool TokenEqual(const Tensor& a, const Tensor& b, size_t token) {
  const auto from = static_cast<std::ptrdiff_t>(token * a.heads * a.dim);
  const auto to = from + static_cast<std::ptrdiff_t>(a.heads * a.dim);
  return std::equal(a.data.begin() + from, a.data.begin() + to, b.data.begin() + from);
}

}  // namespace kvg::test
