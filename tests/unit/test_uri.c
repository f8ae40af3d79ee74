/* SPDX-License-Identifier: Apache-2.0 */
/* test_uri.c - addresses of appliances, and the options of those over verbs. */
#include "link/uri.h"



#include <errno.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "util.h"

static void test_addresses_are_parsed(void **unused)
{
	char text[200], why[XM_WHY_MAX];
	struct sockaddr_storage ss;
	struct xm_uri u;
	socklen_t len;

	assert_int_equal(xm_uri_parse("tcp:10.1.2.3:77", &u, NULL), 0);
	assert_string_equal(u.host, "10.1.2.3");
	assert_int_equal(xm_uri_resolve(&u, &ss, &len, NULL), 0);
	assert_false(xm_uri_is_local(&ss));
	assert_int_equal(xm_uri_parse("tcp:77", &u, NULL), 0);
	assert_int_equal(xm_uri_resolve(&u, &ss, &len, NULL), 0);
	assert_true(xm_uri_is_local(&ss));
	assert_int_equal(((struct sockaddr_in *)&ss)->sin_port, htons(77));
	assert_int_equal(xm_uri_parse("tcp:[::1]:9", &u, NULL), 0);
	assert_string_equal(u.host, "::1");
	assert_int_equal(xm_uri_resolve(&u, &ss, &len, NULL), 0);
	assert_int_equal(ss.ss_family, AF_INET6);
	assert_true(xm_uri_is_local(&ss));
	assert_int_equal(xm_uri_parse("tcp:host:65536", &u, NULL), -EINVAL);
	assert_int_equal(xm_uri_parse("tcp:host:", &u, NULL), -EINVAL);
	assert_int_equal(xm_uri_parse("tcp:", &u, NULL), -EINVAL);
	assert_int_equal(xm_uri_parse("shm:@", &u, NULL), -EINVAL);
	snprintf(text, sizeof(text), "shm:/%0*d", 150, 0);
	assert_int_equal(xm_uri_parse(text, &u, why), -EINVAL);
	assert_non_null(strstr(why, "' is not an address (the path is longer than 107 bytes)"));
	assert_int_equal(xm_uri_parse("tcp:::1", &u, why), -EINVAL);
	assert_non_null(strstr(why, "write an IPv6 address as tcp:[ADDR]:PORT"));
}

static void test_options_of_verbs_are_parsed(void **unused)
{
	static const char longest[] = "verbs:[fe80:0000:0000:0000:0000:0000:0000:0001]:65535,"
				      "device=a234567890123456789012345678901234567890123456789012345678901234,"
				      "port=255,gid=65535,mtu=4096,ack-timeout=8.192000000us,retries=7,depth=4096,reads=255,"
				      "numa=1023,huge=yes";
	char why[XM_WHY_MAX];
	struct xm_uri u;

	assert_int_equal(xm_uri_parse("verbs:10.0.0.5:7", &u, NULL), 0);
	assert_false(u.has_options);
	assert_int_equal(u.verbs.gid, -1);
	assert_int_equal(u.verbs.retries, -1);
	assert_int_equal(xm_uri_parse("verbs:10.0.0.5:7,ack-timeout=67ms,depth=100,retries=0,device=rxe0,gid=3,mtu=512,huge=no,"
				      "numa=1,reads=16", &u, why), 0);
	assert_string_equal(u.host, "10.0.0.5");
	assert_string_equal(u.port, "7");
	assert_string_equal(u.verbs.device, "rxe0");
	assert_int_equal(u.verbs.port, -1);
	assert_int_equal(u.verbs.gid, 3);
	assert_int_equal(u.verbs.mtu, 512);
	assert_int_equal(u.verbs.ack_timeout, 14); /* 67.1 ms; 13 is half of it */
	assert_int_equal(u.verbs.retries, 0);
	assert_int_equal(u.verbs.depth, 128);
	assert_int_equal(u.verbs.reads, 16);
	assert_int_equal(u.verbs.numa, 1);
	assert_int_equal(u.verbs.huge, 0);
	assert_int_equal(xm_uri_parse("verbs:h:7,ack-timeout=67.2ms", &u, why), 0);
	assert_int_equal(u.verbs.ack_timeout, 15);
	assert_int_equal(xm_uri_parse(longest, &u, why), -EINVAL); /* a device has 63 letters */
	assert_int_equal(xm_uri_parse("verbs:h:7,mtu=256,depth=16,retries=7,numa=0,huge=yes", &u, why), 0);
	assert_true(u.has_options);
}

static void test_wrong_options_are_refused_by_name(void **unused)
{
	static const struct {
		const char *text, *says;
	} bad[] = {
		{ "verbs:h:7,", "want device=, port=" },
		{ "verbs:h:7,,mtu=256", "want device=, port=" },
		{ "verbs:h:7,mtu", "'mtu' in the address: want device=" },
		{ "verbs:h:7,colour=red", "'colour=red' in the address: want device=" },
		{ "verbs:h:7,mtu=256,mtu=256", "'mtu=256' in the address: given twice" },
		{ "verbs:h:7,mtu=300", "'mtu=300' in the address: want 256, 512, 1024, 2048 or 4096" },
		{ "verbs:h:7,mtu=8192", "want 256, 512" },
		{ "verbs:h:7,mtu=", "want 256, 512" },
		{ "verbs:h:7,device=rxe0,port=0", "'port=0' in the address: want 1 to 255" },
		{ "verbs:h:7,device=rxe0,port=-1", "want 1 to 255" },
		{ "verbs:h:7,device=rxe0,gid=65536", "want an index of the port's table, 0 to 65535" },
		{ "verbs:h:7,device=", "want the name of an RDMA device" },
		{ "verbs:h:7,device=../x", "want the name of an RDMA device" },
		{ "verbs:h:7,gid=1", "'gid' in the address: of which device?" },
		{ "verbs:h:7,ack-timeout=67", "'ack-timeout=67' in the address: want a time of 8.192us to 60s" },
		{ "verbs:h:7,ack-timeout=8us", "want a time" },
		{ "verbs:h:7,ack-timeout=61s", "want a time" },
		{ "verbs:h:7,retries=8", "want 0 to 7" },
		{ "verbs:h:7,depth=15", "want 16 to 4096" },
		{ "verbs:h:7,depth=4097", "want 16 to 4096" },
		{ "verbs:h:7,depth=99999999999999999999", "want 16 to 4096" },
		{ "verbs:h:7,reads=0", "want 1 to 255" },
		{ "verbs:h:7,numa=1024", "want a node, 0 to 1023" },
		{ "verbs:h:7,huge=maybe", "want yes or no" },
		{ "tcp:h:7,mtu=256", "options after a comma are for verbs:HOST:PORT only" },
		{ "shm:/run/x,depth=16", "options after a comma are for verbs:HOST:PORT only" },
	};
	char text[XM_URI_MAX + 60], why[XM_WHY_MAX];
	struct xm_uri u;

	for (size_t i = 0; i < XM_ARRAY_SIZE(bad); i++) {
		why[0] = 0;
		assert_int_equal(xm_uri_parse(bad[i].text, &u, why), -EINVAL);
		if (!strstr(why, bad[i].says))
			fail_msg("%s: '%s' instead of '%s'", bad[i].text, why, bad[i].says);
	}
	assert_int_equal(xm_uri_parse("shm:/run/a,b=c", &u, why), 0); /* a file may be called so */
	assert_int_equal(xm_uri_parse_listen("verbs:h:7,mtu=256", &u, why), -EINVAL);
	assert_non_null(strstr(why, "options are for the client's --appliance"));
	assert_int_equal(xm_uri_parse_listen("verbs:h:7", &u, why), 0);
	snprintf(text, sizeof(text), "verbs:h:7,%0*d", XM_URI_MAX, 0);
	assert_int_equal(xm_uri_parse(text, &u, why), -EINVAL);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_addresses_are_parsed),
		cmocka_unit_test(test_options_of_verbs_are_parsed),
		cmocka_unit_test(test_wrong_options_are_refused_by_name),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
