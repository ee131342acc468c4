// Memory and inputs for tests of operation tables: rows, sealed pieces, sequences, calls.
//
// Called by tests/parity and by benchmarks of kernels. Buffers have exactly the size that ops.h
// gives them and start out filled with junk, so that AddressSanitizer sees a step beyond the end
// and a comparison sees what a kernel left unwritten.
#ifndef KVGEAR_TESTS_SUPPORT_KERNEL_FIXTURE_H_
#define KVGEAR_TESTS_SUPPORT_KERNEL_FIXTURE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/ops.h"

namespace kvg::kernel_test {

// ------------------------------------------------------------------------------------ basics

// Every width that a tile may have.
inline constexpr uint8_t kWidths[] = {0, 1, 2, 3, 4, 6, 8};

// The tables to be compared with the reference.
std::vector<const ops::Table*> CpuTables();

// Those and the reference, for what holds of every table.
std::vector<const ops::Table*> AllTables();

// Both lists become this one table: of a device, in programs of tests/gpu.
void TestInstead(const ops::Table* table);

// splitmix64: the same numbers everywhere.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t Next();
  uint64_t Below(uint64_t n) { return Next() % n; }
  bool Chance(double p) { return Uniform() < p; }
  double Uniform();  // [0, 1)
  double Normal();   // mean 0, variance 1, |x| < 6
  template <typename T>
  const T& Pick(const std::vector<T>& choices) {
    return choices[Below(choices.size())];
  }

 private:
  uint64_t state_;
};

// Exactly `size` bytes at an address that is a multiple of ops::kAlign, filled with junk.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t size, uint8_t junk = 0xA5);
  template <typename T = uint8_t>
  T* data() const {
    return reinterpret_cast<T*>(data_.get());
  }
  size_t size() const { return size_; }
  std::vector<uint8_t> bytes() const { return {data(), data() + size_}; }

 private:
  struct Free {
    void operator()(uint8_t* p) const;
  };
  std::unique_ptr<uint8_t, Free> data_;
  size_t size_ = 0;
};

// Ways of sharing work. The result must not depend on which one is used.
ops::Parallel Serial();
ops::Parallel Backwards();  // 3 workers in turn, last task first, on one thread
ops::Parallel Threads();    // 4 threads

// ------------------------------------------------------------------------------------ inputs

// fp16 rows of all heads, x[head * head_stride + token * head_dim + direction].
struct Rows {
  uint32_t kv_heads = 0;
  uint32_t head_dim = 0;
  uint64_t tokens = 0;
  uint64_t head_stride = 0;
  Buffer data;

  const uint16_t* x(uint64_t first_token = 0) const {
    return data.data<const uint16_t>() + first_token * head_dim;
  }
  uint64_t Index(uint32_t head, uint64_t token, uint32_t direction) const {
    return head * head_stride + token * head_dim + direction;
  }
  void Store(uint32_t head, uint64_t token, uint32_t direction, float value);  // saturates
};

enum class Data {
  kNoise,     // normal, with an offset per direction that is large for some
  kOutliers,  // noise with one entry in 40 far out
  kLowRank,   // a product of two thin matrices and a little noise
  kConstant,  // boxes of 32 tokens and 16 directions of one value
  kTies,      // few distinct values, both zeros among them
  kTiny,      // small multiples of the smallest fp16 number: scales underflow
  kExtreme,   // the largest fp16 numbers beside ordinary and tiny ones
};
inline const std::vector<Data> kAllData = {Data::kNoise,    Data::kOutliers, Data::kLowRank,
                                           Data::kConstant, Data::kTies,     Data::kTiny,
                                           Data::kExtreme};

// Zeros. The heads lie `gap` elements further apart than they must.
Rows ZeroRows(uint32_t kv_heads, uint64_t tokens, uint32_t head_dim, uint64_t gap = 0);
Rows MakeRows(Data data, uint64_t seed, uint32_t kv_heads, uint64_t tokens, uint32_t head_dim,
              uint64_t gap = 0);

// ------------------------------------------------------------------------------------ pieces

// A map and its matrices.
struct MapData {
  ops::Map map{};
  std::vector<uint16_t> forward{}, back{};
};
// The largest blocks that head_dim allows.
std::shared_ptr<const MapData> HadamardMap(uint32_t head_dim);
// A random rotation whose directions are then stretched by 1/2 to 2, per head.
std::shared_ptr<const MapData> DenseMap(Random& random, uint32_t kv_heads, uint32_t head_dim);

// Shape and codec of a code piece.
struct Form {
  ops::SealSpec spec{.side = ops::kSideK,
                     .axis = ops::kAxisChannel,
                     .group = 32,
                     .heads_share_scale = false,
                     .rank = 0,
                     .sweeps = 2,
                     .seed = 1,
                     .outliers = 0,
                     .map = nullptr};
  uint32_t kv_heads = 1;
  uint32_t head_dim = 64;
  uint64_t tokens = 32;           // to seal at first
  uint64_t padded_tokens = 0;     // 0 = as few as hold `tokens`
  std::vector<uint8_t> widths{};  // [kv_heads][tiles]
  std::shared_ptr<const MapData> map{};  // nullptr = none

  uint32_t tiles() const { return ops::PadDirs(head_dim) / ops::kTileDirs; }
  std::string Describe() const;
};

// All tiles of one width.
Form UniformForm(ops::Side side, ops::Axis axis, uint32_t group, uint8_t width, uint32_t kv_heads,
                 uint32_t head_dim, uint64_t tokens);

// Any form that kernels/ops.h allows: axis, group, shared scales, mixed widths, rank, outliers, map.
Form RandomForm(Random& random, ops::Side side, uint32_t kv_heads, uint32_t head_dim,
                uint64_t tokens);

// A code piece and its memory.
class CodePiece {
 public:
  CodePiece(const Form& form, uint64_t first_token);

  // Seals x[first, first + tokens) behind the tokens held so far.
  void Seal(const ops::Table& table, const Rows& x, uint64_t first, uint64_t tokens,
            const ops::Parallel& parallel);
  // Seals form.tokens tokens, the first of x.
  void Seal(const ops::Table& table, const Rows& x, const ops::Parallel& parallel) {
    Seal(table, x, 0, form_.tokens, parallel);
  }

  // Forgets the newest tokens, as an open page does. Their codes and scales stay where they are.
  void Cut(uint64_t tokens) { piece_.tokens = tokens; }

  const Form& form() const { return form_; }
  const ops::Piece& piece() const { return piece_; }
  // Of the last Seal.
  double error_sq() const { return out_.error_sq; }
  double norm_sq() const { return out_.norm_sq; }

  std::vector<uint8_t> codes() const { return codes_.bytes(); }
  std::vector<uint8_t> scales() const { return scale_.bytes(); }
  std::vector<uint8_t> minima() const { return minimum_.bytes(); }
  std::vector<uint8_t> a() const { return a_.bytes(); }
  std::vector<uint8_t> b() const { return b_.bytes(); }
  // Number of sparse entries, 0 without a sparse part.
  uint64_t entries() const;
  // Everything written, to be compared bit by bit.
  std::vector<uint8_t> AllBytes() const;

 private:
  Form form_;
  std::vector<uint64_t> codes_head_;
  std::vector<uint32_t> codes_block_;
  Buffer codes_, scale_, minimum_, a_, b_;
  Buffer sparse_start_, sparse_count_, sparse_dir_, sparse_value_;
  ops::SealOut out_{};
  ops::Piece piece_{};
};

// One side of a sequence under construction; owns its pieces.
class SequenceBuilder {
 public:
  SequenceBuilder(ops::Side side, uint32_t kv_heads, uint32_t head_dim)
      : side_(side), kv_heads_(kv_heads), head_dim_(head_dim) {}

  // Seals form.tokens tokens with the reference table, and cuts off the newest `cut` of them. The
  // next piece must start at a block's edge unless it is of rows.
  void AddCodes(const Form& form, Data data, uint64_t seed, uint64_t cut = 0) {
    AddCodes(form, MakeRows(data, seed, kv_heads_, form.tokens, head_dim_), cut);
  }
  void AddCodes(const Form& form, const Rows& x, uint64_t cut = 0);
  void AddRows(uint64_t tokens, Data data, uint64_t seed) {
    AddRows(MakeRows(data, seed, kv_heads_, tokens, head_dim_, 23));
  }
  void AddRows(Rows rows);

  ops::Side side() const { return side_; }
  uint64_t length() const { return length_; }
  ops::Sequence sequence() const { return {pieces_.data(), pieces_.size()}; }

 private:
  ops::Side side_;
  uint32_t kv_heads_, head_dim_;
  uint64_t length_ = 0;
  std::vector<std::unique_ptr<CodePiece>> codes_;
  std::vector<std::unique_ptr<Rows>> rows_;
  std::vector<std::unique_ptr<ops::Piece>> row_pieces_;
  std::vector<const ops::Piece*> pieces_;
};

// ------------------------------------------------------------------------------------ calls

size_t SizeOf(ops::DType dtype);
const char* NameOf(ops::DType dtype);
double LoadElement(const Buffer& buffer, ops::DType dtype, uint64_t i);
void StoreElement(const Buffer& buffer, ops::DType dtype, uint64_t i, double value);

// [tokens][kv_heads][head_dim] of dtype.
Buffer Read(const ops::Table& table, const ops::Sequence& sequence, uint32_t kv_heads,
            uint32_t head_dim, uint64_t first_token, uint64_t tokens, ops::DType dtype);

// How q or out lie in memory: heads before tokens or behind them, `gap` unused elements behind
// every row and `gap` more behind every run of rows.
struct Order {
  uint32_t gap = 0;
  bool heads_first = false;
};

// The strides that follow, in elements.
struct Strides {
  int64_t token, head;
  uint64_t elements;  // from the first to the last row, that row's gap included

  uint64_t Index(uint32_t query, uint32_t q_head, uint32_t direction) const {
    return static_cast<uint64_t>(query * token + q_head * head) + direction;
  }
};

// What a call of attend asks for, beside the sequences.
struct AttendShape {
  uint32_t q_heads = 1, kv_heads = 1, head_dim = 64, queries = 1;
  ops::DType q_dtype = ops::kF32, out_dtype = ops::kF32;
  Order q_order{}, out_order{};
  float scale = 0;  // 0 = 1 / sqrt(head_dim)
  float softcap = 0;
  uint64_t sliding_window = 0;
  bool causal = true;
  double q_deviation = 1;

  Strides q_strides() const { return StridesOf(q_order); }
  Strides out_strides() const { return StridesOf(out_order); }
  float EffectiveScale() const;
  std::string Describe() const;

 private:
  Strides StridesOf(const Order& order) const;
};

// One call of attend over a batch of sequences, to be made of several tables.
class AttendCall {
 public:
  AttendCall(const AttendShape& shape, uint64_t seed) : shape_(shape), random_(seed) {}

  // The builders must live as long as the call.
  void Add(const SequenceBuilder& k, const SequenceBuilder& v);

  // The output of each item.
  std::vector<Buffer> Run(const ops::Table& table, const ops::Parallel& parallel) const {
    return Run(table, parallel, shape_.out_dtype);
  }
  std::vector<Buffer> Run(const ops::Table& table, const ops::Parallel& parallel,
                          ops::DType out_dtype) const;

  const AttendShape& shape() const { return shape_; }
  uint64_t items() const { return items_.size(); }
  const ops::AttendItem& item(uint64_t i) const { return items_[i]; }
  double Query(uint64_t item, uint32_t query, uint32_t q_head, uint32_t direction) const {
    const uint64_t i = shape_.q_strides().Index(query, q_head, direction);
    return LoadElement(queries_[item], shape_.q_dtype, i);
  }

 private:
  AttendShape shape_;
  Random random_;
  std::vector<Buffer> queries_;
  std::vector<ops::AttendItem> items_;
};

}  // namespace kvg::kernel_test

#endif  // KVGEAR_TESTS_SUPPORT_KERNEL_FIXTURE_H_
