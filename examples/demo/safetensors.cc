// The checks and the mapping behind safetensors.h.
#include "safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "files.h"
#include "refusal.h"

namespace demo {
namespace {

using nlohmann::json;

constexpr uint64_t kMaxHeader = 100'000'000;  // the format's own limit

/// Bytes of one element, 0 for a type that the format does not know.
uint64_t ElementBytes(const std::string& dtype) {
  static const std::map<std::string, uint64_t> sizes = {
      {"BOOL", 1}, {"U8", 1},  {"I8", 1},   {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"I16", 2}, {"U16", 2},
      {"F16", 2},  {"BF16", 2}, {"I32", 4}, {"U32", 4},     {"F32", 4},     {"I64", 8}, {"U64", 8},
      {"F64", 8}};
  const auto it = sizes.find(dtype);
  return it == sizes.end() ? 0 : it->second;
}

std::string ShapeText(const std::vector<uint64_t>& shape) {
  std::string out = "[";
  for (const uint64_t n : shape) out += (out.size() > 1 ? ", " : "") + std::to_string(n);
  return out + "]";
}

/// Parses the header and refuses names that occur twice, of which JSON would keep only the last.
json ParseHeader(const MappedFile& file, uint64_t length) {
  std::set<std::string> names;
  std::string twice;
  const auto watch = [&](int depth, json::parse_event_t event, json& value) {
    if (event == json::parse_event_t::key && depth == 1) {
      const std::string name = value.get<std::string>();
      if (!names.insert(name).second) twice = name;
    }
    return true;
  };
  const char* begin = reinterpret_cast<const char*>(file.data()) + 8;
  json header = json::parse(begin, begin + length, watch, false);
  if (header.is_discarded() || !header.is_object()) {
    Refuse(file.path(), " is damaged: its header is not a JSON object.");
  }
  if (!twice.empty()) {
    Refuse(file.path(), " is damaged: its header names the tensor '", Shown(twice), "' twice.");
  }
  return header;
}

/// An array of whole numbers, or a refusal.
std::vector<uint64_t> Numbers(const MappedFile& file, const std::string& name, const json& entry,
                              const char* key) {
  std::vector<uint64_t> out;
  const auto it = entry.find(key);
  bool good = it != entry.end() && it->is_array() && it->size() <= 16;
  if (good) {
    for (const json& n : *it) {
      good = good && n.is_number_unsigned();
      if (good) out.push_back(n.get<uint64_t>());
    }
  }
  if (!good) {
    Refuse(file.path(), " is damaged: tensor '", Shown(name), "' has no proper '", key, "'.");
  }
  return out;
}

TensorView ReadEntry(const MappedFile& file, uint64_t data_start, const std::string& name,
                     const json& entry) {
  TensorView view;
  view.name = name;
  view.file = &file.path();
  if (!entry.is_object() || !entry.contains("dtype") || !entry["dtype"].is_string()) {
    Refuse(file.path(), " is damaged: tensor '", Shown(name), "' has no dtype.");
  }
  view.dtype_name = entry["dtype"].get<std::string>();
  const uint64_t element = ElementBytes(view.dtype_name);
  if (element == 0) {
    Refuse(file.path(), ": tensor '", Shown(name), "' has the unknown dtype '",
           Shown(view.dtype_name), "'.");
  }
  view.shape = Numbers(file, name, entry, "shape");
  const std::vector<uint64_t> offsets = Numbers(file, name, entry, "data_offsets");
  const uint64_t room = file.size() - data_start;
  if (offsets.size() != 2 || offsets[0] > offsets[1]) {
    Refuse(file.path(), " is damaged: tensor '", Shown(name), "' has no proper 'data_offsets'.");
  }
  if (offsets[1] > room) {
    Refuse(file.path(), " is cut short: tensor '", Shown(name), "' ends at byte ", offsets[1],
           " of the data, but only ", room, " bytes are there.");
  }
  uint64_t bytes = element;
  for (const uint64_t n : view.shape) {
    if (__builtin_mul_overflow(bytes, n, &bytes)) bytes = UINT64_MAX;
    if (bytes == UINT64_MAX) break;
  }
  view.bytes = offsets[1] - offsets[0];
  if (bytes != view.bytes) {
    Refuse(file.path(), " is damaged: tensor '", Shown(name), "' of shape ", ShapeText(view.shape),
           " and dtype ", view.dtype_name, " does not fill its ", view.bytes, " bytes.");
  }
  view.data = file.data() + data_start + offsets[0];
  return view;
}

}  // namespace

MappedFile::MappedFile(const std::string& path) : path_(path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) Refuse("Cannot open ", path, ": ", std::strerror(errno), ".");
  struct stat info = {};
  if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    close(fd);
    Refuse(path, " is not a regular file.");
  }
  size_ = static_cast<uint64_t>(info.st_size);
  if (size_ > 0) {
    void* memory = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd, 0);
    if (memory == MAP_FAILED) {
      const int why = errno;
      close(fd);
      Refuse("Cannot map ", path, ": ", std::strerror(why), ".");
    }
    data_ = static_cast<const unsigned char*>(memory);
  }
  close(fd);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(const_cast<unsigned char*>(data_), size_);
}

std::map<std::string, TensorView> ReadTensorIndex(const MappedFile& file) {
  if (file.size() < 8) {
    Refuse(file.path(), " is not a safetensors file: it has only ", file.size(), " bytes.");
  }
  uint64_t length = 0;
  for (int i = 7; i >= 0; --i) length = (length << 8) | file.data()[i];
  if (length > kMaxHeader || length > file.size() - 8) {
    Refuse(file.path(), " is damaged or cut short: it announces a header of ", length,
           " bytes, and the file has ", file.size(), ".");
  }
  const json header = ParseHeader(file, length);
  std::map<std::string, TensorView> tensors;
  std::vector<std::pair<const unsigned char*, const TensorView*>> order;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") continue;
    const auto it = tensors.emplace(name, ReadEntry(file, 8 + length, name, entry)).first;
    order.emplace_back(it->second.data, &it->second);
  }
  // The tensors must fill the data one after another, without holes and overlaps.
  std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
    return a.first != b.first ? a.first < b.first : a.second->bytes < b.second->bytes;
  });
  const unsigned char* end = file.data() + 8 + length;
  for (const auto& [begin, view] : order) {
    if (begin != end) {
      Refuse(file.path(), " is damaged: tensor '", Shown(view->name),
             "' does not begin where the one before it ends.");
    }
    end += view->bytes;
  }
  if (end != file.data() + file.size()) {
    Refuse(file.path(), " is damaged: it has ", file.data() + file.size() - end,
           " bytes that belong to no tensor.");
  }
  return tensors;
}

Checkpoint::Checkpoint(const std::string& dir) {
  const std::string single = dir + "/model.safetensors";
  const std::string index = single + ".index.json";
  if (FileExists(single)) {
    files_.push_back(std::make_unique<MappedFile>(single));
    tensors_ = ReadTensorIndex(*files_.back());
  } else if (FileExists(index)) {
    OpenShards(dir, index);
  } else {
    Refuse(dir, " holds neither model.safetensors nor model.safetensors.index.json.");
  }
}

void Checkpoint::OpenShards(const std::string& dir, const std::string& index_path) {
  const json index = json::parse(ReadWholeFile(index_path), nullptr, false);
  if (index.is_discarded() || !index.is_object() || !index.contains("weight_map") ||
      !index["weight_map"].is_object()) {
    Refuse(index_path, " is damaged: it is not a JSON object with a 'weight_map'.");
  }
  std::map<std::string, std::map<std::string, TensorView>> shards;
  for (const auto& [name, shard] : index["weight_map"].items()) {
    if (!shard.is_string()) {
      Refuse(index_path, " is damaged: '", Shown(name), "' has no file name.");
    }
    const std::string file = shard.get<std::string>();
    if (file.empty() || file[0] == '.' || file.find('/') != std::string::npos ||
        file.find('\0') != std::string::npos) {
      Refuse(index_path, " names the file '", Shown(file), "', which is not a plain file name.");
    }
    auto it = shards.find(file);
    if (it == shards.end()) {
      files_.push_back(std::make_unique<MappedFile>(dir + "/" + file));
      it = shards.emplace(file, ReadTensorIndex(*files_.back())).first;
    }
    const auto tensor = it->second.find(name);
    if (tensor == it->second.end()) {
      Refuse(index_path, " says that tensor '", Shown(name), "' is in ", Shown(file),
             ", but it is not.");
    }
    tensors_.emplace(name, tensor->second);
  }
}

const TensorView& Checkpoint::Get(const std::string& name, const std::vector<uint64_t>& shape,
                                  DType* type) const {
  const auto it = tensors_.find(name);
  if (it == tensors_.end()) Refuse("The checkpoint has no tensor '", name, "'.");
  const TensorView& view = it->second;
  if (view.shape != shape) {
    Refuse(*view.file, ": tensor '", name, "' has shape ", ShapeText(view.shape),
           ", but config.json asks for ", ShapeText(shape), ".");
  }
  if (view.dtype_name == "F32") {
    *type = DType::kF32;
  } else if (view.dtype_name == "F16") {
    *type = DType::kF16;
  } else if (view.dtype_name == "BF16") {
    *type = DType::kBF16;
  } else {
    Refuse(*view.file, ": tensor '", name, "' has dtype ", view.dtype_name,
           "; this decoder reads F32, F16 and BF16.");
  }
  return view;
}

}  // namespace demo
