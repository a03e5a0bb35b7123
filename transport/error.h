/*
 * error.h - what libcurl and nghttp2 call an error, as -errno and as words: the one table.
 *
 * Pure: no state, any thread. What a library adds in a later version and the table lacks is
 * -EPROTO. A test walks every number that the libraries have today.
 */
#ifndef TRANSPORT_ERROR_H
#define TRANSPORT_ERROR_H

#include <curl/curl.h>
#include <stddef.h>

#include "lease/base/types.h"

/*
 * The -errno of a finished transfer; 0 for CURLE_OK. `os_error` is CURLINFO_OS_ERRNO (0: unknown):
 * it tells apart why a connection was not made.
 */
int transport_error_of_curl(CURLcode code, long os_error);

/* The -errno of a negative nghttp2 return value (NGHTTP2_ERR_...); 0 for 0. */
int transport_error_of_nghttp2(int code);

/*
 * Writes one line for a user into `text`: what cannot be done with the origin at `url`, and what to
 * do next. `error` is a -errno of this room; `detail` is the library's own words or "".
 */
void transport_error_text(int error, const char *url, const char *detail, char *text, size_t size);

#endif
