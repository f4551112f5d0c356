/* Sizes and times as people read them. */
#ifndef KS_BASE_UNITS_H
#define KS_BASE_UNITS_H

/* "1.5 GiB", "320 B". */
void ks_size_text(double bytes, char *text, int size);

/* 59 -> "0:59", 3661 -> "1:01:01", 100000 -> "1 day 3 h"; "?" below 0 and where nobody waits for it. */
void ks_duration_text(double seconds, char *text, int size);

#endif
