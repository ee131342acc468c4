// Memory and inputs for tests of operation tables; see kernel_fixture.h.
#include "tests/support/kernel_fixture.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <new>
#include <sstream>
#include <thread>
#include <utility>

#include "kernels/half.h"

namespace kvg::kernel_test {
namespace {

using Task = void (*)(void* ctx, uint64_t i, uint32_t worker);

void RunSerial(void*, uint64_t n, Task task, void* ctx) {
  for (uint64_t i = 0; i < n; ++i) task(ctx, i, 0);
}

void RunBackwards(void*, uint64_t n, Task task, void* ctx) {
  for (uint64_t i = n; i-- > 0;) task(ctx, i, static_cast<uint32_t>(i % 3));
}

constexpr uint32_t kThreads = 4;

void RunThreads(void*, uint64_t n, Task task, void* ctx) {
  std::atomic<uint64_t> next{0};
  const auto work = [&](uint32_t worker) {
    for (uint64_t i; (i = next.fetch_add(1)) < n;) task(ctx, i, worker);
  };
  std::vector<std::thread> threads;
  for (uint32_t worker = 1; worker < kThreads; ++worker) threads.emplace_back(work, worker);
  work(0);
  for (std::thread& thread : threads) thread.join();
}

// Bytes of one block of a head.
uint32_t BlockBytes(const Form& form, uint32_t head) {
  uint32_t bytes = 0;
  for (uint32_t i = 0; i < form.tiles(); ++i) bytes += 64u * form.widths[head * form.tiles() + i];
  return bytes;
}

const char* AxisName(ops::Axis axis) { return axis == ops::kAxisToken ? "token" : "channel"; }

}  // namespace

// ------------------------------------------------------------------------------------ basics

namespace {
std::vector<const ops::Table*>& Instead() {
  static std::vector<const ops::Table*> tables;
  return tables;
}
}  // namespace

void TestInstead(const ops::Table* table) { Instead() = {table}; }

std::vector<const ops::Table*> CpuTables() {
  if (!Instead().empty()) return Instead();
  size_t count = 0;
  const ops::Table* const* tables = ops::CpuTables(&count);
  return {tables, tables + count};
}

std::vector<const ops::Table*> AllTables() {
  if (!Instead().empty()) return Instead();
  std::vector<const ops::Table*> tables = CpuTables();
  tables.push_back(&ops::ReferenceTable());
  return tables;
}

uint64_t Random::Next() {
  state_ += 0x9E3779B97F4A7C15u;
  uint64_t z = state_;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

double Random::Uniform() { return static_cast<double>(Next() >> 11) * 0x1p-53; }

double Random::Normal() {
  double sum = 0;
  for (int i = 0; i < 12; ++i) sum += Uniform();
  return sum - 6;
}

Buffer::Buffer(size_t size, uint8_t junk)
    : data_(static_cast<uint8_t*>(::operator new(size, std::align_val_t{ops::kAlign}))),
      size_(size) {
  std::memset(data_.get(), junk, size);
}

void Buffer::Free::operator()(uint8_t* p) const {
  ::operator delete(p, std::align_val_t{ops::kAlign});
}

ops::Parallel Serial() { return {nullptr, 1, RunSerial}; }
ops::Parallel Backwards() { return {nullptr, 3, RunBackwards}; }
ops::Parallel Threads() { return {nullptr, kThreads, RunThreads}; }

// ------------------------------------------------------------------------------------ inputs

void Rows::Store(uint32_t head, uint64_t token, uint32_t direction, float value) {
  data.data<uint16_t>()[Index(head, token, direction)] = F32ToF16Saturate(value);
}

Rows ZeroRows(uint32_t kv_heads, uint64_t tokens, uint32_t head_dim, uint64_t gap) {
  const uint64_t head = tokens * head_dim;
  Rows rows{.kv_heads = kv_heads,
            .head_dim = head_dim,
            .tokens = tokens,
            .head_stride = head + gap,
            .data = Buffer(((kv_heads - 1) * (head + gap) + head) * sizeof(uint16_t))};
  for (uint32_t h = 0; h < kv_heads; ++h) {
    std::fill_n(rows.data.data<uint16_t>() + h * rows.head_stride, head, uint16_t{0});
  }
  return rows;
}

Rows MakeRows(Data data, uint64_t seed, uint32_t kv_heads, uint64_t tokens, uint32_t head_dim,
              uint64_t gap) {
  Random random(seed);
  Rows rows = ZeroRows(kv_heads, tokens, head_dim, gap);
  std::vector<double> offset, along, box;
  std::vector<double> across;
  for (uint64_t i = 0; i < uint64_t{kv_heads} * head_dim; ++i) {
    offset.push_back(random.Normal() * (random.Chance(0.06) ? 4 : 0.3));
    along.push_back(random.Normal());
  }
  for (uint64_t i = 0; i < kv_heads * tokens; ++i) across.push_back(random.Normal());
  for (uint64_t i = 0; i < kv_heads * (tokens / 32 + 1) * (head_dim / 16 + 1); ++i) {
    box.push_back(random.Normal());
  }
  for (uint32_t h = 0; h < kv_heads; ++h) {
    for (uint64_t t = 0; t < tokens; ++t) {
      for (uint32_t d = 0; d < head_dim; ++d) {
        const uint64_t channel = uint64_t{h} * head_dim + d;
        double x = random.Normal();
        switch (data) {
          case Data::kNoise:
            x += offset[channel];
            break;
          case Data::kOutliers:
            x = (x + offset[channel]) * (random.Chance(0.025) ? 12 : 1);
            break;
          case Data::kLowRank:
            x = 0.1 * x + along[channel] * across[h * tokens + t];
            break;
          case Data::kConstant:
            x = box[(h * (tokens / 32 + 1) + t / 32) * (head_dim / 16 + 1) + d / 16];
            break;
          case Data::kTies:
            x = random.Pick<double>({-1, -0.5, -0.0, 0.0, 0.5, 1});
            break;
          case Data::kTiny:
            x = static_cast<double>(random.Below(10)) * 0x1p-24 - 0x1p-22;
            break;
          case Data::kExtreme:
            x = random.Pick<double>({x, x, x, 100 * x, 0x1p-24, -0x1p-15, 65504, -65504});
            break;
        }
        rows.Store(h, t, d, static_cast<float>(x));
      }
    }
  }
  return rows;
}

// ------------------------------------------------------------------------------------ forms

std::string Form::Describe() const {
  std::ostringstream text;
  text << (spec.side == ops::kSideK ? "K" : "V") << " axis " << AxisName(spec.axis) << " group "
       << spec.group << (spec.heads_share_scale ? " shared" : "") << " rank " << spec.rank
       << " outliers " << spec.outliers << " heads " << kv_heads << " head_dim " << head_dim
       << " tokens " << tokens << " of " << padded_tokens << " widths";
  for (const uint8_t width : widths) text << ' ' << int{width};
  return text.str();
}

Form UniformForm(ops::Side side, ops::Axis axis, uint32_t group, uint8_t width, uint32_t kv_heads,
                 uint32_t head_dim, uint64_t tokens) {
  Form form;
  form.spec.side = side;
  form.spec.axis = axis;
  form.spec.group = group;
  form.kv_heads = kv_heads;
  form.head_dim = head_dim;
  form.tokens = tokens;
  form.widths.assign(kv_heads * form.tiles(), width);
  return form;
}

std::shared_ptr<const MapData> HadamardMap(uint32_t head_dim) {
  auto data = std::make_shared<MapData>();
  data->map.kind = ops::kMapHadamard;
  data->map.block = head_dim & (~head_dim + 1);  // the lowest bit
  return data;
}

std::shared_ptr<const MapData> DenseMap(Random& random, uint32_t kv_heads, uint32_t head_dim) {
  auto data = std::make_shared<MapData>();
  const uint32_t dirs = ops::PadDirs(head_dim);
  data->forward.resize(size_t{kv_heads} * head_dim * dirs);
  data->back = data->forward;
  std::vector<std::vector<double>> basis(head_dim, std::vector<double>(head_dim));
  for (uint32_t head = 0; head < kv_heads; ++head) {
    for (uint32_t j = 0; j < head_dim; ++j) {
      std::vector<double>& column = basis[j];
      for (double& x : column) x = random.Normal();
      const auto dot = [&column](const std::vector<double>& other) {
        double sum = 0;
        for (size_t i = 0; i < column.size(); ++i) sum += column[i] * other[i];
        return sum;
      };
      for (uint32_t p = 0; p < 2 * j; ++p) {
        const double share = dot(basis[p % j]);
        for (uint32_t i = 0; i < head_dim; ++i) column[i] -= share * basis[p % j][i];
      }
      const double length = std::sqrt(dot(column));
      for (double& x : column) x /= length;
      const double stretch = std::exp2(2 * random.Uniform() - 1);
      for (uint32_t i = 0; i < head_dim; ++i) {
        const size_t at = (size_t{head} * head_dim + i) * dirs + j;
        data->forward[at] = F32ToF16(static_cast<float>(column[i] * stretch));
        data->back[at] = F32ToF16(static_cast<float>(column[i] / stretch));
      }
    }
  }
  data->map.kind = ops::kMapDense;
  data->map.forward = data->forward.data();
  data->map.back = data->back.data();
  return data;
}

Form RandomForm(Random& random, ops::Side side, uint32_t kv_heads, uint32_t head_dim,
                uint64_t tokens) {
  const auto any_width = [&random] { return kWidths[random.Below(std::size(kWidths))]; };
  const bool by_channel = random.Chance(0.5);
  Form form = UniformForm(side, by_channel ? ops::kAxisChannel : ops::kAxisToken, 32, any_width(),
                          kv_heads, head_dim, tokens);
  const uint32_t tiles = form.tiles();
  const bool mixed = random.Chance(0.6);
  if (by_channel) {
    form.spec.group = 32 * static_cast<uint32_t>(1 + random.Below(3));
    if (mixed) {
      for (uint8_t& width : form.widths) width = any_width();
    }
    if (random.Chance(0.4)) form.spec.fit = ops::kFitLeast;
  } else {
    form.spec.group = random.Pick<uint32_t>({16, 32, 64, head_dim, 0xFFFFFFFFu});
    if (form.spec.group >= head_dim && random.Chance(0.5)) form.spec.heads_share_scale = true;
    if (mixed) {  // one width for each group
      uint8_t width = 0;
      for (uint32_t head = 0; head < kv_heads; ++head) {
        for (uint32_t tile = 0; tile < tiles; ++tile) {
          const bool group_begins = tile * ops::kTileDirs % form.spec.group == 0;
          if (group_begins && !(form.spec.heads_share_scale && head > 0)) width = any_width();
          form.widths[head * tiles + tile] = width;
        }
      }
    }
  }
  if (random.Chance(0.5)) {
    form.spec.rank = random.Pick<uint32_t>({1, 2, 3, 4, 8, 16});
    form.spec.sweeps = static_cast<uint32_t>(1 + random.Below(3));
    form.spec.seed = random.Next();
  }
  if (random.Chance(0.5)) {
    const uint64_t vector = side == ops::kSideK ? tokens : uint64_t{kv_heads} * head_dim;
    const uint64_t most = random.Chance(0.2) ? vector / 2 : vector / 16;
    form.spec.outliers = random.Below(most + 1);
  }
  if (random.Chance(0.4)) {
    form.map = random.Chance(0.5) ? HadamardMap(head_dim) : DenseMap(random, kv_heads, head_dim);
    form.spec.map = &form.map->map;
  }
  if (random.Chance(0.3)) {
    form.padded_tokens = ops::PadTokens(tokens) + ops::kBlockTokens * (1 + random.Below(2));
  }
  return form;
}

// ------------------------------------------------------------------------------------ pieces

CodePiece::CodePiece(const Form& form, uint64_t first_token) : form_(form) {
  if (form_.padded_tokens == 0) form_.padded_tokens = ops::PadTokens(form_.tokens);
  const ops::SealSpec& spec = form_.spec;
  const uint64_t heads = form_.kv_heads;
  const uint64_t padded = form_.padded_tokens;
  const uint64_t dirs = ops::PadDirs(form_.head_dim);
  const uint64_t blocks = padded / ops::kBlockTokens;

  // Heads lie in reverse, which the offsets allow.
  codes_head_.resize(heads);
  codes_block_.resize(heads);
  uint64_t bytes = 0;
  for (uint32_t head = form_.kv_heads; head-- > 0;) {
    codes_head_[head] = bytes;
    codes_block_[head] = BlockBytes(form_, head);
    bytes += blocks * codes_block_[head];
  }
  codes_ = Buffer(bytes);
  const bool by_channel = spec.axis == ops::kAxisChannel;
  const uint64_t members = by_channel ? dirs : padded;
  const uint64_t length = by_channel ? padded : form_.head_dim;
  const uint64_t groups = (length + spec.group - 1) / spec.group;
  const uint64_t scales = groups * members * (spec.heads_share_scale ? 1 : heads);
  scale_ = Buffer(scales * 2);
  minimum_ = Buffer(scales * 2);
  if (spec.rank > 0) {
    a_ = Buffer(heads * spec.rank * padded * 2);
    b_ = Buffer(heads * spec.rank * dirs * 2);
  }
  if (spec.outliers > 0) {
    out_.sparse_capacity =
        2 * spec.outliers * (spec.side == ops::kSideK ? heads * form_.head_dim : form_.tokens);
    sparse_start_ = Buffer(heads * (blocks + 1) * 4);
    sparse_count_ = Buffer(heads * padded);
    sparse_dir_ = Buffer(out_.sparse_capacity);
    sparse_value_ = Buffer(out_.sparse_capacity * 2);
  }

  out_.kv_heads = form_.kv_heads;
  out_.head_dim = form_.head_dim;
  out_.dirs = static_cast<uint32_t>(dirs);
  out_.padded_tokens = padded;
  out_.widths = form_.widths.data();
  out_.codes = codes_.data();
  out_.codes_head = codes_head_.data();
  out_.codes_block = codes_block_.data();
  out_.scale = scale_.data<uint16_t>();
  out_.minimum = minimum_.data<uint16_t>();
  out_.scale_head_stride = spec.heads_share_scale ? 0 : groups * members;
  out_.scale_group_stride = members;
  out_.a = a_.data<uint16_t>();
  out_.b = b_.data<uint16_t>();
  out_.sparse_start = sparse_start_.data<uint32_t>();
  out_.sparse_count = sparse_count_.data();
  out_.sparse_dir = sparse_dir_.data();
  out_.sparse_value = sparse_value_.data<uint16_t>();

  piece_.kind = ops::kCodes;
  piece_.side = spec.side;
  piece_.first_token = first_token;
  piece_.padded_tokens = padded;
  piece_.kv_heads = form_.kv_heads;
  piece_.head_dim = form_.head_dim;
  piece_.dirs = out_.dirs;
  piece_.rank = spec.rank;
  piece_.map = spec.map;
  piece_.widths = out_.widths;
  piece_.codes = out_.codes;
  piece_.codes_head = out_.codes_head;
  piece_.codes_block = out_.codes_block;
  piece_.axis = spec.axis;
  piece_.group = spec.group;
  piece_.scale = out_.scale;
  piece_.minimum = out_.minimum;
  piece_.scale_head_stride = out_.scale_head_stride;
  piece_.scale_group_stride = out_.scale_group_stride;
  piece_.a = out_.a;
  piece_.b = out_.b;
  piece_.sparse_start = out_.sparse_start;
  piece_.sparse_count = out_.sparse_count;
  piece_.sparse_dir = out_.sparse_dir;
  piece_.sparse_value = out_.sparse_value;
}

void CodePiece::Seal(const ops::Table& table, const Rows& x, uint64_t first, uint64_t tokens,
                     const ops::Parallel& parallel) {
  ops::SealArgs args{.spec = form_.spec,
                     .x = x.x(first),
                     .x_head_stride = x.head_stride,
                     .tokens = tokens,
                     .at = piece_.tokens,
                     .scratch = nullptr};
  const Buffer scratch(table.seal_scratch(&args, &out_, parallel.workers), 0xFF);
  args.scratch = scratch.data();
  table.seal(&args, &out_, &parallel);
  piece_.tokens += tokens;
}

uint64_t CodePiece::entries() const {
  if (sparse_start_.size() == 0) return 0;
  const uint64_t blocks = piece_.padded_tokens / ops::kBlockTokens;
  return piece_.sparse_start[piece_.kv_heads * (blocks + 1) - 1];
}

std::vector<uint8_t> CodePiece::AllBytes() const {
  std::vector<uint8_t> all;
  const auto append = [&all](const uint8_t* bytes, uint64_t n) {
    all.insert(all.end(), bytes, bytes + n);
  };
  for (const Buffer* part :
       {&codes_, &scale_, &minimum_, &a_, &b_, &sparse_start_, &sparse_count_}) {
    append(part->data(), part->size());
  }
  append(sparse_dir_.data(), entries());  // the room behind the entries is not looked at
  append(sparse_value_.data(), entries() * sizeof(uint16_t));
  for (const double value : {out_.error_sq, out_.norm_sq}) {
    append(reinterpret_cast<const uint8_t*>(&value), sizeof(value));
  }
  return all;
}

void SequenceBuilder::AddCodes(const Form& form, const Rows& x, uint64_t cut) {
  codes_.push_back(std::make_unique<CodePiece>(form, length_));
  codes_.back()->Seal(ops::ReferenceTable(), x, Serial());
  codes_.back()->Cut(form.tokens - cut);
  pieces_.push_back(&codes_.back()->piece());
  length_ += form.tokens - cut;
}

void SequenceBuilder::AddRows(Rows rows) {
  const uint64_t tokens = rows.tokens;
  rows_.push_back(std::make_unique<Rows>(std::move(rows)));
  row_pieces_.push_back(std::make_unique<ops::Piece>());
  ops::Piece& piece = *row_pieces_.back();
  piece.kind = ops::kRows;
  piece.side = side_;
  piece.first_token = length_;
  piece.tokens = tokens;
  piece.padded_tokens = ops::PadTokens(tokens);
  piece.kv_heads = kv_heads_;
  piece.head_dim = head_dim_;
  piece.dirs = ops::PadDirs(head_dim_);
  piece.rows = rows_.back()->x();
  piece.rows_head_stride = rows_.back()->head_stride;
  pieces_.push_back(&piece);
  length_ += tokens;
}

// ------------------------------------------------------------------------------------ calls

size_t SizeOf(ops::DType dtype) { return dtype == ops::kF32 ? 4 : 2; }

const char* NameOf(ops::DType dtype) {
  return dtype == ops::kF32 ? "f32" : dtype == ops::kF16 ? "f16" : "bf16";
}

double LoadElement(const Buffer& buffer, ops::DType dtype, uint64_t i) {
  if (dtype == ops::kF32) return buffer.data<const float>()[i];
  const uint16_t bits = buffer.data<const uint16_t>()[i];
  return dtype == ops::kF16 ? F16ToF32(bits) : BF16ToF32(bits);
}

void StoreElement(const Buffer& buffer, ops::DType dtype, uint64_t i, double value) {
  const auto x = static_cast<float>(value);
  if (dtype == ops::kF32) {
    buffer.data<float>()[i] = x;
  } else {
    buffer.data<uint16_t>()[i] = dtype == ops::kF16 ? F32ToF16(x) : F32ToBF16(x);
  }
}

Buffer Read(const ops::Table& table, const ops::Sequence& sequence, uint32_t kv_heads,
            uint32_t head_dim, uint64_t first_token, uint64_t tokens, ops::DType dtype) {
  Buffer out(tokens * kv_heads * head_dim * SizeOf(dtype));
  const ops::ReadArgs args{.side = sequence,
                           .kv_heads = kv_heads,
                           .head_dim = head_dim,
                           .first_token = first_token,
                           .tokens = tokens,
                           .dtype = dtype,
                           .out = out.data()};
  table.read(&args);
  return out;
}

Strides AttendShape::StridesOf(const Order& order) const {
  const int64_t row = int64_t{head_dim} + order.gap;
  const int64_t tokens_run = row * queries + order.gap;
  const int64_t heads_run = row * q_heads + order.gap;
  if (order.heads_first) {
    return {
        .token = row, .head = tokens_run, .elements = static_cast<uint64_t>(tokens_run) * q_heads};
  }
  return {.token = heads_run, .head = row, .elements = static_cast<uint64_t>(heads_run) * queries};
}

float AttendShape::EffectiveScale() const {
  return scale != 0 ? scale : 1 / std::sqrt(static_cast<float>(head_dim));
}

std::string AttendShape::Describe() const {
  std::ostringstream text;
  text << "heads " << q_heads << '/' << kv_heads << " head_dim " << head_dim << " queries "
       << queries << ' ' << NameOf(q_dtype) << " -> " << NameOf(out_dtype) << " gaps "
       << q_order.gap << ' ' << out_order.gap << " heads first " << q_order.heads_first << ' '
       << out_order.heads_first << " scale " << EffectiveScale() << " softcap " << softcap
       << " window " << sliding_window << (causal ? " causal" : " full");
  return text.str();
}

void AttendCall::Add(const SequenceBuilder& k, const SequenceBuilder& v) {
  const Strides strides = shape_.q_strides();
  queries_.emplace_back(strides.elements * SizeOf(shape_.q_dtype), 0xFF);  // gaps hold NaN
  for (uint32_t query = 0; query < shape_.queries; ++query) {
    for (uint32_t head = 0; head < shape_.q_heads; ++head) {
      for (uint32_t d = 0; d < shape_.head_dim; ++d) {
        StoreElement(queries_.back(), shape_.q_dtype, strides.Index(query, head, d),
                     random_.Normal() * shape_.q_deviation);
      }
    }
  }
  items_.push_back({.k = k.sequence(),
                    .v = v.sequence(),
                    .length = k.length(),
                    .q = queries_.back().data(),
                    .out = nullptr});
}

std::vector<Buffer> AttendCall::Run(const ops::Table& table, const ops::Parallel& parallel,
                                    ops::DType out_dtype) const {
  const Strides q_strides = shape_.q_strides();
  const Strides out_strides = shape_.out_strides();
  std::vector<ops::AttendItem> items = items_;
  std::vector<Buffer> out;
  for (ops::AttendItem& item : items) {
    out.emplace_back(out_strides.elements * SizeOf(out_dtype));
    item.out = out.back().data();
  }
  ops::AttendArgs args{.items = items.data(),
                       .count = items.size(),
                       .q_heads = shape_.q_heads,
                       .kv_heads = shape_.kv_heads,
                       .head_dim = shape_.head_dim,
                       .queries = shape_.queries,
                       .q_dtype = shape_.q_dtype,
                       .out_dtype = out_dtype,
                       .q_token_stride = q_strides.token,
                       .q_head_stride = q_strides.head,
                       .out_token_stride = out_strides.token,
                       .out_head_stride = out_strides.head,
                       .scale = shape_.EffectiveScale(),
                       .softcap = shape_.softcap,
                       .sliding_window = shape_.sliding_window,
                       .causal = shape_.causal,
                       .scratch = nullptr};
  const Buffer scratch(table.attend_scratch(&args, parallel.workers), 0xFF);
  args.scratch = scratch.data();
  table.attend(&args, &parallel);
  return out;
}

}  // namespace kvg::kernel_test
