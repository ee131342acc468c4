// Reading and writing whole files.
#include "files.h"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <system_error>

#include "refusal.h"

namespace demo {

bool FileExists(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::exists(path, ignored);
}

std::string ReadWholeFile(const std::string& path) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) Refuse(path, " is a folder, not a file.");
  std::ifstream in(path, std::ios::binary);
  if (!in) Refuse("Cannot open ", path, ": ", std::strerror(errno), ".");
  std::string content((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  if (in.bad()) Refuse("Cannot read ", path, ": ", std::strerror(errno), ".");
  return content;
}

void WriteWholeFile(const std::string& path, const std::string& content) {
  const std::filesystem::path parent = std::filesystem::path(path).parent_path();
  std::error_code ignored;
  if (!parent.empty()) std::filesystem::create_directories(parent, ignored);
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out << content;
  out.close();
  if (!out) Refuse("Cannot write ", path, ": ", std::strerror(errno), ".");
}

}  // namespace demo
