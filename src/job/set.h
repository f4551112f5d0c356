/* --set PATH=VALUE: one value of a job put in place before it is read. */
#ifndef KS_JOB_SET_H
#define KS_JOB_SET_H

#include "base/error.h"
#include "base/json.h"

/* The document with the value set, as a new document of the same name. PATH: keys and places of
 * lists, "a.b[2].c". VALUE: JSON, or the text itself where it is none. Missing members are made;
 * the place behind a list's last item appends. NULL with err when the path leads through
 * something else. */
ks_json_doc *ks_job_apply_set(const ks_json_doc *doc, const char *set, ks_error *err);

#endif
