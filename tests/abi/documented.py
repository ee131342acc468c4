#!/usr/bin/env python3
"""Does every function, type, field and constant of the public headers say what it is?

    tests/abi/documented.py <folder of kvgear.h>

Functions and structs need a comment of their own right before them, which names only parameters that there are, and says how
what it gives away is destroyed; fallible functions take kvg_error *err last. Fields and values of enumerations may share the
comment before them or behind them. Open questions (TODO, FIXME) are not for headers.
"""
import re
import sys
from pathlib import Path

DOC = re.compile(r'/\*\*(.*?)\*/\s*$', re.S)


def words(text):
    return len(re.findall(r'[A-Za-z]{2,}', text))


def comment_before(text, at):
    """The doc comment that ends right before `at`, or None."""
    found = text.rfind('/**', 0, at)
    match = DOC.match(text[found:at]) if found >= 0 else None
    return match.group(1) if match else None


def functions(text):
    for match in re.finditer(r'^KVG_API\s+([^;(]*?)\b(kvg_[a-z0-9_]+)\(([^;]*?)\);', text, re.M | re.S):
        yield match.start(), ' '.join(match.group(1).split()), match.group(2), ' '.join(match.group(3).split())


def check(text):
    """Complaints about the text of one header, and how many functions it has."""
    complaints = []
    count = 0
    for at, result, name, parameters in functions(text):
        count += 1
        doc = comment_before(text, at)
        if doc is None or words(doc) < 3:
            complaints.append(f'{name} has no comment')
            continue
        named = [re.split(r'\W+', p.strip())[-1] for p in parameters.split(',')] if parameters != 'void' else []
        for parameter in re.findall(r'@param(?:\[\w+\])?\s+(\w+)', doc):
            if parameter not in named:
                complaints.append(f'{name}: there is no parameter {parameter}')
        if result == 'kvg_status' and not re.search(r'kvg_error \*err$', parameters):
            complaints.append(f'{name} returns a kvg_status and does not take kvg_error *err last')
        if 'KVG_OWN' in parameters and 'Destroy with' not in doc and not re.search(r'The same', doc):
            complaints.append(f'{name} gives something away and does not say "Destroy with"')
        if result not in ('void', 'kvg_status') and '@return' not in doc:
            complaints.append(f'{name} returns {result} and does not say @return what')
    if count != len(re.findall(r'^KVG_API\b', text, re.M)):
        complaints.append('not every KVG_API was understood')

    for match in re.finditer(r'^typedef [^;{]*?(?:\{.*?\})?[^;]*;', text, re.M | re.S):
        if comment_before(text, match.start()) is None:
            complaints.append(f'no comment before: {match.group(0).splitlines()[0]}')
    for match in re.finditer(r'^typedef struct (\w+) \{(.*?)^\}|^enum (\w+) \{(.*?)^\}', text, re.M | re.S):
        name, body = match.group(1) or match.group(3), match.group(2) or match.group(4)
        if name == 'kvg_api':  # its slots are documented as functions
            continue
        group = False  # whether the comment of a field above may hold for this one
        for line in body.splitlines():
            if re.match(r'\s*/\*\*(?!<)', line):  # a comment in front
                group = True
            if re.match(r'\s*(/\*|\*|[^;,]*\*/$)', line) and ';' not in line.split('/*')[0]:
                continue
            field = re.match(r'\s*[\w \*]+?\(?\*?(\w+)(\[\w+\]|\)\([^;]*\))?\s*(= \w+)?[;,]?\s*(/\*\*<.*)?$', line)
            if not field or not line.strip():
                group = group and bool(line.strip())
                continue
            if field.group(4):
                group = True
            elif field.group(1) == 'struct_size':  # rule (6)
                group = False
            elif not group and not (field.group(3) or COMMENTED.get(name)):
                complaints.append(f'{name}.{field.group(1)} has no comment, nor has the field above')
    for match in re.finditer(r'\b(TODO|FIXME|XXX)\b', text):
        complaints.append(f'{match.group(1)} in a header')
    return complaints, count


# Structs and enumerations whose comment in front says it all.
COMMENTED = {'kvg_allocator': True}


def main():
    folder = Path(sys.argv[1])
    total = 0
    bad = []
    for header in sorted(folder.glob('*.h')):
        complaints, count = check(header.read_text())
        total += count
        bad += [f'{header.name}: {c}' for c in complaints]
    # The check must be able to fail.
    text = (folder / 'kvgear.h').read_text()
    broken = {
        'a comment taken away': re.sub(r'/\*\* Drops all tokens of all layers\. \*/', '', text),
        'a parameter of another name': text.replace('@param      recipe ', '@param      recipee '),
        'an owner who is not told': text.replace(' Destroy with kvg_cache_destroy.', ''),
        'a field without a comment': text.replace(' /**< 1 to 65536 */', ''),
        'an open question': text + '/* TODO */',
    }
    for what, changed in broken.items():
        if changed == text or not check(changed)[0]:
            bad.append(f'this test does not find {what}')
    for complaint in bad:
        print(f'FAILED: {complaint}', file=sys.stderr)
    print(f'{total} functions, {len(bad)} complaints')
    return 1 if bad or total == 0 else 0


if __name__ == '__main__':
    sys.exit(main())
