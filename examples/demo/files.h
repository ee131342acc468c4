// Small helpers for whole files. Used wherever the demo reads or writes one.
#ifndef KVGEAR_EXAMPLES_DEMO_FILES_H_
#define KVGEAR_EXAMPLES_DEMO_FILES_H_

#include <string>

namespace demo {

bool FileExists(const std::string& path);

/// The content of a file, or a Refusal.
std::string ReadWholeFile(const std::string& path);

/// Replaces the content of a file, or a Refusal. Folders on the way are made.
void WriteWholeFile(const std::string& path, const std::string& content);

}  // namespace demo

#endif  // KVGEAR_EXAMPLES_DEMO_FILES_H_
