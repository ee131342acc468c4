// The header of a safetensors file, checked, and its tensors, converted when they are asked for.
#include "core/model/plan_file.h"

#include <sys/stat.h>

#include <bit>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <new>
#include <nlohmann/json.hpp>
#include <optional>

#include "core/model/text.h"
#include "kernels/half.h"

namespace kvg {
namespace {

using Json = nlohmann::json;

constexpr uint64_t kMostHeader = uint64_t{16} << 20;  // bytes; a model of 100 layers needs 100 KB
constexpr size_t kMostDims = 8;

// Bytes of an element; 0 = a dtype that no plan uses, of which only the extent is believed.
uint64_t ElementBytes(std::string_view dtype) {
  if (dtype == "U8") return 1;
  if (dtype == "F16" || dtype == "BF16") return 2;
  if (dtype == "F32") return 4;
  if (dtype == "F64") return 8;
  return 0;
}

std::string ShapeText(const std::vector<uint64_t>& shape) {
  std::string text = "[";
  for (const uint64_t size : shape) absl::StrAppend(&text, text.size() > 1 ? ", " : "", size);
  return text + "]";
}

// What the header says of one tensor, before anything of it is believed.
struct Entry {
  std::optional<std::string> dtype;
  std::optional<std::vector<uint64_t>> shape, offsets;
};

// The header as it is read, one value after another. Not as a tree of values: destroying one asks for
// memory, and ends the process when there is none.
class HeaderReader final : public Json::json_sax_t {
 public:
  std::map<std::string, Entry> entries;
  std::map<std::string, std::string, std::less<>> texts;
  std::string complaint;  // set when a callback stops the reading, or the text is no JSON

  bool null() override { return Other(); }
  bool boolean(bool) override { return Other(); }
  bool number_integer(number_integer_t) override { return Other(); }
  bool number_float(number_float_t, const string_t&) override { return Other(); }
  bool binary(binary_t&) override { return Other(); }
  bool number_unsigned(number_unsigned_t value) override {
    if (list_ == nullptr || depth_ != 3) return Other();
    if (list_->size() > kMostDims) return Lacks();
    list_->push_back(value);
    return true;
  }
  bool string(string_t& value) override {
    if (depth_ != 2) return Other();
    if (entry_ == nullptr) {
      texts[key_] = std::move(value);
    } else if (key_ == "dtype") {
      entry_->dtype = std::move(value);
    }
    return true;
  }
  bool start_object(std::size_t) override {
    // The header, one entry of it; deeper ones are nobody's business here.
    if (depth_ >= 2 && !Other()) return false;
    if (++depth_ == 2) entry_ = name_ == "__metadata__" ? nullptr : &(entries[name_] = Entry());
    return true;
  }
  bool key(string_t& value) override {
    if (depth_ == 1) name_ = std::move(value);
    if (depth_ == 2) key_ = std::move(value);
    return true;
  }
  bool end_object() override {
    --depth_;
    return true;
  }
  bool start_array(std::size_t) override {
    if (depth_ == 2 && entry_ != nullptr && (key_ == "shape" || key_ == "data_offsets")) {
      list_ = &(key_ == "shape" ? entry_->shape : entry_->offsets).emplace();
    } else if (!Other()) {
      return false;
    }
    ++depth_;
    return true;
  }
  bool end_array() override {
    if (--depth_ == 2) list_ = nullptr;
    return true;
  }
  bool parse_error(std::size_t, const std::string&, const Json::exception&) override {
    return Complain("its header is no JSON object");
  }

 private:
  bool Complain(std::string words) {
    complaint = std::move(words);
    return false;
  }
  bool Lacks() {
    return Complain(
        absl::StrCat("tensor ", Quoted(name_), " lacks a dtype, a shape or data_offsets"));
  }
  // A value that is not what its place is for; where nothing is read it may be anything.
  bool Other() {
    if (depth_ == 0) return Complain("its header is no JSON object");
    if (depth_ == 1) return Complain(absl::StrCat("the entry ", Quoted(name_), " is no object"));
    if (depth_ == 2 && entry_ == nullptr) {
      return Complain(absl::StrCat("the text ", Quoted(key_), " is no string"));
    }
    if (depth_ == 2 && (key_ == "dtype" || key_ == "shape" || key_ == "data_offsets")) {
      return Lacks();
    }
    if (list_ != nullptr) {
      return Complain(absl::StrCat("tensor ", Quoted(name_), " has an impossible shape"));
    }
    return true;
  }

  uint64_t depth_ = 0;
  std::string name_, key_;
  Entry* entry_ = nullptr;                 // of the object at depth 2; nullptr: of the texts
  std::vector<uint64_t>* list_ = nullptr;  // of the array at depth 3
};

template <typename T>
T Load(const unsigned char* at) {
  T value;
  std::memcpy(&value, at, sizeof(value));
  return value;
}

double Element(const unsigned char* data, std::string_view dtype, uint64_t i) {
  if (dtype == "F32") return static_cast<double>(Load<float>(data + 4 * i));
  if (dtype == "F64") return Load<double>(data + 8 * i);
  const auto bits = Load<uint16_t>(data + 2 * i);
  return static_cast<double>(dtype == "F16" ? F16ToF32(bits) : BF16ToF32(bits));
}

static_assert(std::endian::native == std::endian::little);

}  // namespace

absl::StatusOr<PlanFile> PlanFile::Open(const char* path) {
  PlanFile plan;
  plan.path_ = path;
  plan.file_.reset(std::fopen(path, "rb"));
  if (plan.file_ == nullptr && errno == ENOMEM) throw std::bad_alloc();
  struct stat info {};
  if (plan.file_ == nullptr || fstat(fileno(plan.file_.get()), &info) != 0) {
    return IoError("the plan file ", Quoted(path), " cannot be opened: ", std::strerror(errno));
  }
  std::setvbuf(plan.file_.get(), nullptr, _IONBF, 0);  // what is read here is read whole
  if (!S_ISREG(info.st_mode)) {
    return IoError("the plan file ", Quoted(path), " is no regular file");
  }
  KVG_RETURN_IF_ERROR(plan.ReadHeader(static_cast<uint64_t>(info.st_size)));
  return plan;
}

absl::Status PlanFile::ReadHeader(uint64_t size) {
  const auto damaged = [&](const auto&... words) {
    return CorruptError("the plan file ", Quoted(path_), " is damaged: ", words...);
  };
  uint64_t length = 0;
  if (size < sizeof(length) || std::fread(&length, sizeof(length), 1, file_.get()) != 1) {
    return damaged("it is shorter than the length of its header");
  }
  if (length > size - sizeof(length) || length > kMostHeader) {
    return damaged("its header is said to have ", length, " bytes; the file has ", size,
                   ", and a header at most ", kMostHeader);
  }
  std::string text(length, '\0');
  if (length > 0 && std::fread(text.data(), length, 1, file_.get()) != 1) {
    return IoError("the plan file ", Quoted(path_), " cannot be read");
  }
  HeaderReader header;
  if (!Json::sax_parse(text, &header)) return damaged(header.complaint);
  texts_ = std::move(header.texts);
  const uint64_t begin = sizeof(length) + length;
  const uint64_t data = size - begin;
  for (auto& [name, entry] : header.entries) {
    if (!entry.dtype || !entry.shape || entry.shape->size() > kMostDims || !entry.offsets ||
        entry.offsets->size() != 2) {
      return damaged("tensor ", Quoted(name), " lacks a dtype, a shape or data_offsets");
    }
    uint64_t count = 1;
    for (const uint64_t dim : *entry.shape) {
      if (dim != 0 && count > std::numeric_limits<uint64_t>::max() / 8 / dim) {
        return damaged("tensor ", Quoted(name), " has an impossible shape");
      }
      count *= dim;
    }
    const uint64_t from = (*entry.offsets)[0], to = (*entry.offsets)[1];
    if (from > to || to > data) {
      return damaged("tensor ", Quoted(name), " reaches beyond the end of the file");
    }
    Tensor tensor;
    tensor.dtype = *std::move(entry.dtype);
    tensor.shape = *std::move(entry.shape);
    tensor.at = begin + from;
    tensor.bytes = to - from;
    const uint64_t element = ElementBytes(tensor.dtype);
    if (element != 0 && tensor.bytes != count * element) {
      return damaged("tensor ", Quoted(name), " of ", tensor.dtype, " ", ShapeText(tensor.shape),
                     " has ", tensor.bytes, " bytes in place of ", count * element);
    }
    tensors_[name] = std::move(tensor);
  }
  const std::string* const version = Text("kvgear.plan");
  if (version == nullptr) {
    return InvalidError("the file ", Quoted(path_), " is no plan of kvgear: it has no text "
                        "kvgear.plan; make one with kvgear-plan");
  }
  if (*version != "1") {
    return UnsupportedError("the plan file ", Quoted(path_), " has the layout ", Quoted(*version),
                            ", and this library knows 1; use a newer library");
  }
  return absl::OkStatus();
}

const std::string* PlanFile::Text(std::string_view key) const {
  const auto found = texts_.find(key);
  return found == texts_.end() ? nullptr : &found->second;
}

absl::StatusOr<uint32_t> PlanFile::Number(std::string_view key) const {
  const std::string* const text = Text(key);
  const std::optional<uint32_t> number = text == nullptr ? std::nullopt : ParseDigits(*text);
  if (number) return *number;
  return InvalidError("the plan file ", Quoted(path_), " does not say ", key,
                      " as a number; make it anew with kvgear-plan");
}

const std::vector<uint64_t>* PlanFile::ShapeOf(std::string_view name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second.shape;
}

absl::StatusOr<const PlanFile::Tensor*> PlanFile::Find(std::string_view name,
                                                       const std::vector<uint64_t>& shape,
                                                       bool floats) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) {
    return InvalidError("the plan file ", Quoted(path_), " has no tensor ", Quoted(name),
                        ", which its recipe needs");
  }
  const Tensor& tensor = found->second;
  if (tensor.shape != shape) {
    return InvalidError("tensor ", Quoted(name), " of the plan file has the shape ",
                        ShapeText(tensor.shape), " where ", ShapeText(shape), " is needed");
  }
  if (floats ? ElementBytes(tensor.dtype) < 2 : tensor.dtype != "U8") {
    return InvalidError("tensor ", Quoted(name), " of the plan file is of ", Quoted(tensor.dtype),
                        "; it may be ", floats ? "F16, BF16, F32 or F64" : "U8");
  }
  return &tensor;
}

absl::StatusOr<std::vector<unsigned char>> PlanFile::Raw(std::string_view name,
                                                         const Tensor& tensor) const {
  std::vector<unsigned char> raw(tensor.bytes);
  const bool read = fseeko(file_.get(), static_cast<off_t>(tensor.at), SEEK_SET) == 0 &&
                    (raw.empty() || std::fread(raw.data(), raw.size(), 1, file_.get()) == 1);
  if (!read) return IoError("tensor ", Quoted(name), " of the plan file cannot be read");
  return raw;
}

template <typename T>
absl::StatusOr<std::vector<T>> PlanFile::Numbers(std::string_view name,
                                                 const std::vector<uint64_t>& shape) const {
  const absl::StatusOr<const Tensor*> tensor = Find(name, shape, true);
  KVG_RETURN_IF_ERROR(tensor.status());
  const absl::StatusOr<std::vector<unsigned char>> raw = Raw(name, **tensor);
  KVG_RETURN_IF_ERROR(raw.status());
  std::vector<T> out(raw->size() / ElementBytes((*tensor)->dtype));
  for (uint64_t i = 0; i < out.size(); ++i) {
    out[i] = static_cast<T>(Element(raw->data(), (*tensor)->dtype, i));
    if (!std::isfinite(out[i])) {
      return CorruptError("tensor ", Quoted(name), " of the plan file holds infinity or NaN");
    }
  }
  return out;
}

absl::StatusOr<std::vector<float>> PlanFile::Floats(std::string_view name,
                                                    const std::vector<uint64_t>& shape) const {
  return Numbers<float>(name, shape);
}

absl::StatusOr<std::vector<double>> PlanFile::Doubles(std::string_view name,
                                                      const std::vector<uint64_t>& shape) const {
  return Numbers<double>(name, shape);
}

absl::StatusOr<std::vector<uint8_t>> PlanFile::Bytes(std::string_view name,
                                                     const std::vector<uint64_t>& shape) const {
  const absl::StatusOr<const Tensor*> tensor = Find(name, shape, false);
  KVG_RETURN_IF_ERROR(tensor.status());
  return Raw(name, **tensor);
}

}  // namespace kvg
