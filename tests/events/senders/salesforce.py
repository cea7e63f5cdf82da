"""Salesforce: an outbound message with two notifications, in the form of its developer guide."""

from __future__ import annotations

import hashlib

from tests.events.senders.sample import Sample, with_a_wrong_secret

BODY = b"""<?xml version="1.0" encoding="UTF-8"?>
<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" xmlns:xsd="http://www.w3.org/2001/XMLSchema" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
 <soapenv:Body>
  <notifications xmlns="http://soap.sforce.com/2005/09/outbound">
   <OrganizationId>00D240000000001EAA</OrganizationId>
   <ActionId>04k240000000001AAA</ActionId>
   <SessionId xsi:nil="true"/>
   <EnterpriseUrl>https://example.my.salesforce.com/services/Soap/c/66.0/00D24</EnterpriseUrl>
   <PartnerUrl>https://example.my.salesforce.com/services/Soap/u/66.0/00D24</PartnerUrl>
   <Notification>
    <Id>04l080000000001AAA</Id>
    <sObject xsi:type="sf:Opportunity" xmlns:sf="urn:sobject.enterprise.soap.sforce.com">
     <sf:Id>006240000000001AAA</sf:Id>
     <sf:Name>B &amp; B \xe2\x99\xa5</sf:Name>
    </sObject>
   </Notification>
   <Notification>
    <Id>04l080000000002AAA</Id>
    <sObject xsi:type="sf:Opportunity" xmlns:sf="urn:sobject.enterprise.soap.sforce.com"><sf:Id>006240000000002AAA</sf:Id></sObject>
   </Notification>
  </notifications>
 </soapenv:Body>
</soapenv:Envelope>"""
SAMPLE = Sample(
    service="salesforce",
    body=BODY,
    secret="the end of the path",
    other="another end",
    headers={"Content-Type": "text/xml; charset=utf-8"},
    signature="Authorization",
    id="sha256:" + hashlib.sha256(BODY).hexdigest(),
    type="Opportunity",
    timed=False,
    events=2,
    answer=b'<?xml version="1.0" encoding="UTF-8"?>'
    b'<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/"><soapenv:Body>'
    b'<notificationsResponse xmlns="http://soap.sforce.com/2005/09/outbound"><Ack>true</Ack>'
    b"</notificationsResponse></soapenv:Body></soapenv:Envelope>",
    changed=with_a_wrong_secret,
)
