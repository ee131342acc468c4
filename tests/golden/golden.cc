// Golden files of saved caches: every version of the library gives the same answer to each of them.
//
//   golden FOLDER           loads each file that FOLDER/expected.txt names, and compares status, words and numbers
//   golden --write FOLDER   makes the files and expected.txt; for a new format version, in a new folder
//
// A line of expected.txt is "FILE ok", followed by lines "> LAYER SIDE TOKENS CRC" with the CRC32C of the decoded
// numbers as fp32, or "FILE STATUS WORDS".
#include <cstdio>
#include <cstring>
#include <fstream>
#include <functional>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/base/crc32c.h"
#include "core/format/layout.h"
#include "tests/support/saved.h"

namespace kvg::test {
namespace {

constexpr Shape kShape{.layers = 2, .q_heads = 4, .kv_heads = 2, .head_dim = 40};
constexpr char kFingerprint[] = "golden";
constexpr char kFirst[] =
    "gear-2,outliers=0.1,rank=3,decode_rank=2,window=32;1:kivi-2,v.window=32";

const char* StatusName(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return "ok";
    case absl::StatusCode::kInvalidArgument:
      return "KVG_E_INVALID";
    case absl::StatusCode::kUnimplemented:
      return "KVG_E_UNSUPPORTED";
    case absl::StatusCode::kDataLoss:
      return "KVG_E_CORRUPT";
    default:
      return "another";
  }
}

Bytes ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + path);
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  Bytes bytes(text.size());
  std::memcpy(bytes.data(), text.data(), text.size());
  return bytes;
}

void WriteFile(const std::string& path, const Bytes& bytes) {
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  if (!file.flush()) throw std::runtime_error("cannot write " + path);
}

// As a host would that knows the model: the plan is made of what the file says, where it can be read;
// else it is that of the first file, of which the bad ones are copies.
absl::StatusOr<std::unique_ptr<Cache>> Load(const Bytes& bytes) {
  std::string recipes = kFirst;
  BufferSource tables(bytes.data(), bytes.size());
  const absl::StatusOr<SavedCache> saved = InspectSaved(tables, true, false);
  if (saved.ok()) {
    recipes = saved->recipes[0];
    for (uint32_t i = 0; i < saved->layers; ++i) {
      absl::StrAppend(&recipes, ";", saved->first_layer + i, ":", saved->recipes[i]);
    }
  }
  const auto cache = MakeCache(kShape, recipes);
  BufferSource source(bytes.data(), bytes.size());
  return LoadCache(cache->shared_runtime(), cache->shared_plan(),
                   {.fingerprint = kFingerprint, .exact = true}, source);
}

// The numbers as the scalar reference decodes them.
std::vector<std::string> Digests(const Cache& cache) {
  std::vector<std::string> lines;
  for (uint32_t layer = 0; layer < kShape.layers; ++layer) {
    for (const ops::Side side : {ops::kSideK, ops::kSideV}) {
      const uint64_t tokens = Length(cache, layer);
      if (tokens == 0) continue;
      const PieceList pieces = cache.layer(layer).side(side).Pieces(cache.runtime().memory());
      std::vector<float> values(tokens * kShape.kv_dim());
      ops::ReadArgs args{};
      args.side = pieces.sequence();
      args.kv_heads = kShape.kv_heads;
      args.head_dim = kShape.head_dim;
      args.tokens = tokens;
      args.dtype = ops::kF32;
      args.out = values.data();
      ops::ReferenceTable().read(&args);
      lines.push_back(absl::StrFormat("> %d %s %d %08x", layer, side == ops::kSideK ? "k" : "v",
                                      tokens,
                                      Crc32c(values.data(), values.size() * sizeof(float))));
    }
  }
  return lines;
}

// --------------------------------------------------------------------------------------- writing

void Reseal(Bytes& bytes, size_t at, size_t size) {
  const uint32_t crc = Crc32c(&bytes[at], size - 4);
  std::memcpy(&bytes[at + size - 4], &crc, sizeof(crc));
}

template <typename T>
void SetHeader(Bytes& bytes, size_t at, T value) {
  std::memcpy(&bytes[at], &value, sizeof(value));
  Reseal(bytes, 0, format::kHeaderBytes);
}

// In the first section of a kind, with sums that fit. `at` >= 64 is in its payload.
template <typename T>
void SetSection(Bytes& bytes, uint32_t kind, size_t at, T value) {
  size_t section = format::kHeaderBytes;
  for (;;) {
    uint32_t found;
    uint64_t length;
    std::memcpy(&found, &bytes.at(section), sizeof(found));
    std::memcpy(&length, &bytes[section + 24], sizeof(length));
    if (found != kind) {
      section += format::kSectionBytes + format::Padded(length);
      continue;
    }
    std::memcpy(&bytes[section + at], &value, sizeof(value));
    const uint32_t crc = Crc32c(&bytes[section + format::kSectionBytes], length);
    if (at >= format::kSectionBytes) std::memcpy(&bytes[section + 20], &crc, sizeof(crc));
    Reseal(bytes, section, format::kSectionBytes);
    return;
  }
}

void Write(const std::string& folder) {
  std::ofstream expected(folder + "/expected.txt");
  const auto add = [&](const std::string& name, const Bytes& bytes, const std::string& words) {
    WriteFile(folder + "/" + name, bytes);
    const auto cache = Load(bytes);
    expected << name << " " << StatusName(cache.status()) << (words.empty() ? "" : " " + words)
             << "\n";
    if (!cache.ok()) return;
    for (const std::string& line : Digests(**cache)) expected << line << "\n";
  };
  const auto grow = [](const std::string& recipes) {
    auto cache = MakeCache(kShape, recipes);
    for (uint32_t layer = 0; layer < kShape.layers; ++layer) {
      const Tensor k = RealisticTensor(layer + 1, 170, 2, 40), v = RealisticTensor(layer + 9, 170, 2, 40);
      Append(*cache, layer, k.Tokens(0, 150), v.Tokens(0, 150));
      Append(*cache, layer, k.Tokens(150, 20), v.Tokens(150, 20));
    }
    return cache;
  };
  const SaveOptions all{.fingerprint = kFingerprint};
  const std::pair<const char*, const char*> good[] = {
      {"gear2-kivi2.kvg", kFirst},
      {"kcvt4-fp16.kvg", "kcvt-4;1:fp16,window=32"},
      {"rotated-6bit.kvg", "int4-rot,bits=3;1:int8,bits=6,k.axis=channel"},
      {"gear4-1bit.kvg", "gear-4,outliers=0.05,k.decode_rank=3;1:gear-2,bits=1,v.decode_rank=2"},
      {"empty.kvg", "gear-2"}};
  for (const auto& [name, recipes] : good) {
    const auto cache = grow(recipes);
    if (std::string(name) == "empty.kvg") Must(cache->Clear());
    add(name, Saved(*cache, all), "");
  }
  const auto cache = grow(good[0].second);
  add("one-layer.kvg",
      Saved(*cache, {.first_layer = 1, .layers = 1, .fingerprint = kFingerprint}), "");
  const Bytes whole = Saved(*cache, all);
  const auto bad = [&](const std::string& name, const std::string& words,
                       const std::function<void(Bytes&)>& harm) {
    Bytes bytes = whole;
    harm(bytes);
    add("bad-" + name + ".kvg", bytes, words);
  };
  bad("cut-in-header", "cut off", [](Bytes& b) { b.resize(100); });
  bad("cut-in-payload", "cut off", [](Bytes& b) { b.resize(b.size() / 2); });
  bad("cut-at-end", "cut off", [](Bytes& b) { b.pop_back(); });
  bad("longer", "behind the end", [](Bytes& b) { b.resize(b.size() + 64); });
  bad("flip-in-header", "damaged", [](Bytes& b) { b[25] ^= std::byte{2}; });
  bad("flip-in-payload", "damaged", [](Bytes& b) { b[b.size() / 2] ^= std::byte{8}; });
  bad("foreign", "not a saved cache", [](Bytes& b) { b[1] = std::byte{'X'}; });
  bad("byte-order", "byte order", [](Bytes& b) { SetHeader(b, 8, uint32_t{0x04030201}); });
  bad("version", "version 2", [](Bytes& b) { SetHeader(b, 12, uint32_t{2}); });
  bad("features", "features", [](Bytes& b) { SetHeader(b, 16, uint64_t{1} << 40); });
  bad("huge", "cut off", [](Bytes& b) { SetHeader(b, 24, uint64_t{1} << 62); });
  bad("section-version", "does not know",
      [](Bytes& b) { SetSection(b, format::kData, 4, uint32_t{9}); });
  bad("section-length", "reaches beyond",
      [](Bytes& b) { SetSection(b, format::kSide, 24, ~uint64_t{63}); });
  bad("model", "another model", [](Bytes& b) { SetSection(b, format::kModel, 64, uint32_t{3}); });
  bad("segment-form", "does not know",
      [](Bytes& b) { SetSection(b, format::kSide, 64 + 64 + 36, uint32_t{7}); });
  bad("segment-room", "damaged",
      [](Bytes& b) { SetSection(b, format::kSide, 64 + 64 + 64, uint64_t{1} << 40); });
  bad("segment-rank", "damaged",
      [](Bytes& b) { SetSection(b, format::kSide, 64 + 64 + 16, uint32_t{1000}); });
  const ops::Piece* piece = nullptr;
  const std::byte* payload = nullptr;
  cache->layer(0).side(ops::kSideK).segments().ForEach([&](const Segment& s, bool, bool) {
    if (s.piece().first_token == 0) piece = &s.piece(), payload = s.payload();
  });
  const auto in_payload = [&](const void* field) {
    return static_cast<size_t>(64 + (static_cast<const std::byte*>(field) - payload));
  };
  bad("outlier-direction", "damaged", [&](Bytes& b) {
    SetSection(b, format::kData, in_payload(piece->sparse_dir), uint8_t{200});
  });
  bad("outlier-start", "damaged", [&](Bytes& b) {
    SetSection(b, format::kData, in_payload(piece->sparse_start + 1), uint32_t{0xFFFFFFF0});
  });
  bad("width", "damaged", [&](Bytes& b) {
    SetSection(b, format::kData, in_payload(piece->widths), uint8_t{8});
  });
  bad("nan", "damaged", [&](Bytes& b) {
    SetSection(b, format::kData, in_payload(piece->scale), uint16_t{0x7E00});
  });
}

// --------------------------------------------------------------------------------------- checking

int Check(const std::string& folder) {
  std::ifstream expected(folder + "/expected.txt");
  int files = 0, failed = 0;
  const auto fail = [&failed](const std::string& what) {
    ++failed;
    std::cerr << "FAILED: " << what << "\n";
  };
  std::vector<std::string> digests;
  std::string line, name;
  while (std::getline(expected, line)) {
    if (line.rfind("> ", 0) == 0) {
      if (digests.empty() || digests.front() != line) fail(name + ": not as " + line);
      if (!digests.empty()) digests.erase(digests.begin());
      continue;
    }
    if (!digests.empty()) fail(name + ": more than expected");
    digests.clear();
    std::istringstream words(line);
    std::string status, rest;
    words >> name >> status;
    std::getline(words >> std::ws, rest);
    ++files;
    const Bytes bytes = ReadFile(folder + "/" + name);
    const auto cache = Load(bytes);
    const std::string message(cache.status().message());
    if (StatusName(cache.status()) != status) {
      fail(name + ": " + status + " expected, got " + cache.status().ToString());
    } else if (!cache.ok() && message.find(rest) == std::string::npos) {
      fail(name + ": no \"" + rest + "\" in \"" + message + "\"");
    }
    if (!cache.ok()) continue;
    digests = Digests(**cache);
    // What was read is written again as it was.
    if (name != "one-layer.kvg" && Saved(**cache, {.fingerprint = kFingerprint}) != bytes) {
      fail(name + ": saved again it is another file");
    }
  }
  std::cout << files << " files, " << failed << " failed\n";
  return failed == 0 && files > 20 ? 0 : 1;
}

}  // namespace
}  // namespace kvg::test

int main(int argc, char** argv) {
  try {
    if (argc == 3 && std::strcmp(argv[1], "--write") == 0) {
      kvg::test::Write(argv[2]);
      return 0;
    }
    if (argc == 2) return kvg::test::Check(argv[1]);
    std::cerr << "usage: golden [--write] FOLDER\n";
    return 2;
  } catch (const std::exception& e) {
    std::cerr << "FAILED: " << e.what() << "\n";
    return 1;
  }
}
