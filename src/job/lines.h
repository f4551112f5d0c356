/* Values of an axis from a file, one a line: {"lines": "prompts.txt"} takes each line as it is,
 * {"jsonl": "prompts.jsonl", "key": "prompt"} takes a member of the JSON object on each line.
 *
 * Both: UTF-8, lines end with LF or CRLF, a byte order mark at the start and lines of nothing but
 * blanks are skipped. At most 10^7 values and 65536 bytes a line. While it is read, the file is in
 * memory as a whole. */
#ifndef KS_JOB_LINES_H
#define KS_JOB_LINES_H

#include <stdbool.h>
#include <stdint.h>

#include "base/json.h"
#include "job/job.h"

enum { KS_LINES_MOST = 10000000, KS_LINES_LONGEST = 65536 };

/* Whether the value of an axis names such a file. */
bool ks_lines_named(ks_json v);

/* One line: its text (of "lines"), or the member of its object (of "jsonl"; value.doc's name is the
 * file's path and the line's number). Both live until the next line is read. */
typedef struct ks_line {
    const char *text; /* NULL for "jsonl" */
    ks_json value;
} ks_line;

typedef struct ks_lines ks_lines;

/* Reads the file that v names and counts its values; adds its contents to job->axis_files. Errors
 * name the job file, the axis, the file and the line. NULL on failure. */
ks_lines *ks_lines_open(ks_job *job, ks_json v, ks_error *err);
void ks_lines_free(ks_lines *l);
int ks_lines_count(const ks_lines *l); /* at least 1 */

/* The next line; fails when it is none (not JSON, no such key). Called ks_lines_count times. */
int ks_lines_next(ks_lines *l, ks_line *line, ks_error *err);

/* "<file>:<line>: <text> does not fit; give <wanted>", of the line read last; returns -1. */
int ks_lines_misfit(const ks_lines *l, ks_error *err, const char *wanted);

/* What every error of a line is wrapped with: the job file and the axis. Returns -1. */
int ks_lines_wrap(const ks_lines *l, ks_error *err);

#endif
